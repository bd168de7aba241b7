"""`charlm train --seeds`, and the same from Python."""

import json
import statistics
from pathlib import Path

import pytest
from conftest import SMALL, small_config

import charlm
from charlm.cli.main import run as command
from charlm.cli.options import as_seeds
from charlm.errors import CharlmError
from charlm.runs.metrics import read_metrics

SETTINGS = [part for override in SMALL for part in ("--set", override)]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def best_score(folder: Path) -> float:
    return min(line["bits_per_character"] for line in read_metrics(folder))


def test_each_seed_has_a_folder_and_the_report_is_computed_from_their_scores(text_file, capfd):
    arguments = ["train", str(text_file), *SETTINGS, "--steps", "4", "--seeds", "3,5"]
    assert command([*arguments, "--out", "out"]) == 0
    out, err = capfd.readouterr()
    folders = [Path("out/seed-3"), Path("out/seed-5")]
    assert out.splitlines()[:2] == list(map(str, folders))
    scores = list(map(best_score, folders))
    assert scores[0] != scores[1]
    assert out.splitlines()[-1] == (
        f"bits per character of 2 seeds: mean {statistics.fmean(scores):.4f}, standard deviation "
        f"{statistics.stdev(scores):.4f}, range {min(scores):.4f} to {max(scores):.4f}"
    )
    assert err.count("network: ") == 1  # Settings are chosen once.
    assert [charlm.load(folder).config.training.seed for folder in folders] == [3, 5]


def test_seeds_of_a_text_whose_bits_are_not_known_are_compared_in_nats(tmp_path, capfd):
    text = tmp_path / "turkish.txt"
    text.write_text("İstanbul ve İzmir\n" * 60, encoding="utf-8")  # İ has no single small letter.
    settings = [*SETTINGS, "--set", "tokenizer.lowercase=true", "--steps", "2"]
    assert command(["train", str(text), *settings, "--seeds", "3,5"]) == 0
    assert "nats per token of 2 seeds: mean" in capfd.readouterr().out


@pytest.mark.parametrize("out", ["out", None])
def test_a_report_shows_the_runs_of_all_seeds(out, pairs_files, capfd):
    text, folder = str(pairs_files["classify"]), [] if out is None else ["--out", out]
    arguments = ["train", text, "--task", "classify", *SETTINGS, "--steps", "2", "--seeds", "3,5"]
    assert command([*arguments, *folder, "--report"]) == 0
    stdout, stderr = capfd.readouterr()
    runs = [Path(line) for line in stdout.splitlines()[:2]]
    path = Path(out or runs[0]) / "report.html"
    assert stderr.endswith(f"report: {path}\n")
    html = path.read_text(encoding="utf-8")
    assert "report of 2 runs" in html and all(run.name in html for run in runs)


@pytest.mark.parametrize("out", ["out", None])
def test_python_writes_the_report_where_the_command_does(out, text_file):
    config = small_config(text_file)
    scores = charlm.train_seeds(config, [3, 5], out=out, report=True, progress=False, steps=2)
    runs = [Path(run.run) for run in scores.runs]
    html = (Path(out or runs[0]) / "report.html").read_text(encoding="utf-8")
    assert "report of 2 runs" in html and all(run.name in html for run in runs)


def test_python_refuses_a_seed_or_folder_before_the_first_training(text_file):
    Path("out/seed-2").mkdir(parents=True)
    Path("out/seed-2/file").touch()
    for seeds, message in (
        ([1, 2], "exists and is not empty"),
        ([1, -1], "seed: must be at least"),
    ):
        with pytest.raises(CharlmError, match=message):
            charlm.train_seeds(small_config(text_file), seeds, out="out", progress=False)
        assert not Path("out/seed-1").exists(), message


def test_a_seed_of_several_gives_the_model_that_it_gives_alone(text_file):
    config = small_config(text_file)
    scores = charlm.train_seeds(config, range(1, 4), out="many", progress=False)
    alone = charlm.train(config, out="alone", seed=2, progress=False)
    assert alone.history[-1]["loss_nats"] == scores.runs[1].loss_nats
    assert scores.values() == [best_score(Path(f"many/seed-{seed}")) for seed in (1, 2, 3)]
    assert scores.mean == pytest.approx(statistics.fmean(scores.values()))
    assert scores.unit == "bits per character"
    assert json.loads(json.dumps(scores.to_json()))["highest"] == max(scores.values())


def test_new_folders_are_named_after_text_and_seed(text_file):
    scores = charlm.train_seeds(small_config(text_file), [1, 2], progress=False, steps=2)
    names = [Path(run.run).name.rpartition("-seed-")[2].partition("-")[0] for run in scores.runs]
    assert names == ["1", "2"]


def test_seeds_are_a_range_or_a_list():
    assert as_seeds("1..5") == [1, 2, 3, 4, 5] and as_seeds("7,1") == [7, 1]


@pytest.mark.parametrize("seeds", ["3", "1..1", "5..1", "1,1", "1..9999999", "a", "", "-1..3"])
def test_other_seeds_are_refused_before_anything_is_trained(seeds, text_file, capfd):
    assert command(["train", str(text_file), "--seeds", seeds]) == 2
    assert "--seeds" in capfd.readouterr().err and not Path("runs").exists()


def test_seeds_beside_one_seed_or_an_existing_folder_are_refused(text_file, capfd):
    assert command(["train", str(text_file), "--seeds", "1..2", "--seed", "1"]) == 2
    assert "cannot be combined with --seeds" in capfd.readouterr().err
    Path("out/seed-2").mkdir(parents=True)
    Path("out/seed-2/file").touch()
    assert command(["train", str(text_file), "--seeds", "1..2", "--out", "out"]) == 1
    assert not Path("out/seed-1").exists()
    with pytest.raises(CharlmError, match="at least two different seeds"):
        charlm.train_seeds(small_config(text_file), [1])


def test_runs_without_a_validation_part_have_no_mean(text_file):
    config = small_config(text_file, "corpus.valid_share=0")
    with pytest.raises(CharlmError, match="has no validation score"):
        charlm.train_seeds(config, [1, 2], progress=False, steps=2)


def test_seeds_in_python_show_once_why_the_settings_were_chosen(text_file, capfd):
    charlm.train_seeds(text_file, [1, 2], steps=2, overrides=["model.hidden_size=8"])
    assert capfd.readouterr().err.count("network: 8 units") == 1

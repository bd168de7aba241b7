"""What every export has in common: checks, verification, and an output that is complete or absent."""

from pathlib import Path

import numpy as np
import pytest
from conftest import small_config, train_all

import charlm
from charlm.cli.main import run
from charlm.errors import CharlmError, OptionError
from charlm.export import exporting
from charlm.export.exporting import Exporter
from charlm.export.options import ExportOptions
from charlm.export.targets import TARGETS
from charlm.export.verification import BOUNDS, Computed, choose_passage, compute_logits


def use_exporter(monkeypatch, run, *, difference: float = 0.0, write=None) -> None:
    """Let every target write one file, whose runtime is charlm itself with a difference added."""

    def write_file(trained, options, path: Path) -> None:
        path.write_text("weights", encoding="utf-8")

    def compute(path: Path, passage, options) -> Computed:
        assert path.read_text(encoding="utf-8") == "weights"
        logits = compute_logits(run.trained, passage)
        for sequence in logits:
            sequence[0, 2] += difference
        return Computed(logits, "a test")

    exporter = Exporter(write or write_file, compute)
    monkeypatch.setattr(exporting, "_exporter", lambda to: exporter)


def test_an_export_is_verified_and_complete(monkeypatch, trained, tmp_path):
    run = charlm.load(trained)
    use_exporter(monkeypatch, run)
    result = charlm.export_run(run, "onnx", tmp_path / "new" / "x.onnx")
    assert (tmp_path / "new" / "x.onnx").read_text(encoding="utf-8") == "weights"
    assert (result.bytes, result.precision, result.verification.tokens) == (7, "fp32", 1000)
    assert result.verification.passage == "the validation text"
    assert result.verification.loss_nats == pytest.approx(run.perplexity().loss_nats, abs=0.02)
    assert result.to_json()["verification"]["nats_difference"] == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.onnx"]


@pytest.mark.parametrize("difference", [1.0, float("nan")])
def test_an_export_that_differs_from_charlm_is_not_written(
    monkeypatch, trained, tmp_path, difference
):
    run = charlm.load(trained)
    use_exporter(monkeypatch, run, difference=difference)
    with pytest.raises(CharlmError, match=r"a test differs from charlm .* nothing was written"):
        charlm.export_run(run, "html", tmp_path / "x.html", precision="fp32")
    assert not list(tmp_path.iterdir())


def test_int8_is_tested_by_the_loss_and_not_by_each_logit(monkeypatch, trained, tmp_path):
    run = charlm.load(trained)
    use_exporter(monkeypatch, run, difference=0.1)
    result = charlm.export_run(run, "html", tmp_path / "x.html")
    assert result.precision == "int8" and result.verification.logit_bound is None
    assert 0 < abs(result.verification.nats_difference) < BOUNDS["int8"].nats


@pytest.mark.parametrize("error", [KeyboardInterrupt, CharlmError("no"), OSError(28, "full")])
def test_an_interrupted_export_leaves_nothing(monkeypatch, trained, tmp_path, error):
    def write(model, options, path: Path) -> None:
        path.mkdir()
        (path / "part").write_bytes(b"x")
        raise error

    run = charlm.load(trained)
    use_exporter(monkeypatch, run, write=write)
    with pytest.raises((KeyboardInterrupt, CharlmError)):
        charlm.export_run(run, "torch", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept(monkeypatch, trained, tmp_path):
    run = charlm.load(trained)
    use_exporter(monkeypatch, run)
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old", encoding="utf-8")
    folder.mkdir()
    (folder / "old").write_text("old", encoding="utf-8")
    for to, out, problem in [
        ("html", file, "the file exists"),
        ("html", folder, "is a folder"),
        ("torch", file, "is a file"),
        ("torch", folder, "the folder is not empty"),
    ]:
        with pytest.raises(CharlmError, match=problem):
            charlm.export_run(run, to, out)
    assert file.read_text(encoding="utf-8") == "old"
    charlm.export_run(run, "html", file, force=True)
    assert file.read_text(encoding="utf-8") == "weights"
    (folder / "old").unlink()
    charlm.export_run(run, "torch", folder)


def test_what_a_target_cannot_represent_is_refused_first(monkeypatch, text_file, tmp_path):
    train_all(small_config(text_file, "model.direction=both"), tmp_path / "run")
    run = charlm.load(tmp_path / "run")
    use_exporter(monkeypatch, run)
    for to in TARGETS:
        with pytest.raises(CharlmError, match=r"reads in both directions, which .* cannot"):
            charlm.export_run(run, to, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_options_of_another_target_are_refused():
    for options, option in [
        ({"to": "pickle"}, "to"),
        ({"to": "onnx", "new_only": True}, "new_only"),
        ({"to": "torch", "embed": True}, "embed"),
        ({"to": "torch", "precision": "int8"}, "precision"),
        ({"to": "html", "precision": "int4"}, "precision"),
        ({"to": "html", "embed": True, "new_only": True}, "new_only"),
        ({"to": "html", "text": ""}, "text"),
    ]:
        with pytest.raises(OptionError) as caught:
            ExportOptions(**{"out": Path("x")} | options)
        assert caught.value.option == option
    assert ExportOptions("html", Path("x")).weight_precision == "int8"


def test_a_passage_has_whole_records_from_the_initial_state(trained_records):
    run = charlm.load(trained_records)
    passage = choose_passage(run.trained, None)
    assert all(sequence[-1] == 0 for sequence in passage.sequences)
    assert all(ids[0] == 0 for ids in passage.inputs)
    assert 0 not in passage.sequences[0][:-1]
    logits = compute_logits(run.trained, passage)
    assert [len(rows) for rows in logits] == [len(ids) for ids in passage.sequences]
    np.testing.assert_allclose(logits[0][0], logits[1][0], rtol=0, atol=1e-6)


def test_without_its_corpus_a_model_is_verified_on_its_own_text(text_file, tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(text_file.read_bytes())
    for mode in ("stream", "records"):
        train_all(small_config(text, f"corpus.mode={mode}"), tmp_path / mode)
    text.unlink()
    for mode in ("stream", "records"):
        passage = choose_passage(charlm.load(tmp_path / mode).trained, None)
        assert passage.source == "text of the model" and sum(map(len, passage.sequences)) > 100


def test_a_given_text_is_used(trained):
    trained = charlm.load(trained).trained
    assert choose_passage(trained, "The cat").sequences == [
        [*trained.tokenizer.encode("The cat").tolist(), 0]
    ]


def test_an_empty_text_is_refused_by_its_file(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("", encoding="utf-8")
    arguments = ["export", str(trained), "--to=torch", "--out=x", "--text-file=empty"]
    assert run(arguments) == 1
    assert (
        capfd.readouterr().err == "charlm: empty: the file is empty; name a text with --text-file\n"
    )


def test_the_command_prints_the_differences(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(trained), "--to=torch", "--out=x"]) == 0
    first, second = capfd.readouterr().out.splitlines()
    assert first.startswith("x: ") and first.endswith(" bytes, fp32")
    assert "compared with charlm on 1,000 tokens of the validation text, by torch" in second
    assert "(limit 1e-05)" in second

"""Every recurrence from the command line: train, sample, score, inspect, resume; directions."""

import gzip
import json
from pathlib import Path

import pytest
from cli.running import ok, refused
from conftest import SMALL, TEXT

from charlm.cli.main import run as charlm

# Step by step, the recurrences validate on a fifth of the text for longer than they train.
pytestmark = pytest.mark.usefixtures("empty_folder")
SETTINGS = [
    part for override in [*SMALL, "corpus.valid_share=0.05"] for part in ("--set", override)
]
KINDS = [
    "bag",
    "elman",
    "{kind: elman, activation: sigmoid}",
    "gru",
    "{kind: gru, reset: before}",
    "{kind: gru, reset: none}",
    "lstm",
    "{kind: lstm, peepholes: [forget, output]}",
    "{kind: lstm, peepholes: [forget, output], coupled: true}",
    "{kind: lstm, peepholes: [input, forget, output], peephole_weights: full}",
    "{kind: lstm, without: [input_gate, output_activation]}",
    "{kind: lstm, full_gate_recurrence: true}",
    "nested_lstm",
    "{kind: nested_lstm, depth: 3}",
    "mogrifier_lstm",
    "{kind: mogrifier_lstm, rounds: 2, rank: null}",
    "min_gru",
    "min_lstm",
    "rg_lru",
    "hgrn",
    "slstm",
    "diagonal_gru",
    "diagonal_lstm",
]
VARIANTS = {
    "two sizes": ["model.hidden_size=[12, 20]"],
    "residual": ["model.num_layers=3", "model.skip=residual", "model.layer_norm=true"],
    "hgrn": ["model.cell=hgrn", "model.num_layers=3", "model.skip=residual"],
    "blocks": ["model.cell=rg_lru", "model.num_layers=2", "model.block=griffin"],
    "blocks, tied": ["model.cell=lstm", "model.block=griffin", "model.tied=true"],
    "sum": ["model.num_layers=2", "model.skip=sum", "model.initial_state=learned"],
    "one-hot": ["model.embedding=one_hot", "model.cell=gru"],
    "tied": ["model.tied=true", "model.cell={kind: gru, reset: before}"],
    "bag of one-hots": ["model.embedding=one_hot", "model.cell=bag", "model.layer_norm=true"],
}


def trained(capfd, text, *overrides: str, steps: int = 12) -> None:
    """Train a small model into the folder `run`."""
    changes = [part for override in overrides for part in ("--set", override)]
    Path("defaults.yaml").write_text("", encoding="utf-8")  # Nothing is chosen automatically.
    ok(
        capfd,
        "train",
        text,
        "--config",
        "defaults.yaml",
        *SETTINGS,
        *changes,
        "--steps",
        steps,
        "--out",
        "run",
    )


# Records for one cell per way of running a window: kernel, step by step, scan, and a plain sum.
RECORD_KINDS = ["lstm", "{kind: gru, reset: before}", "min_lstm", "slstm", "bag"]


@pytest.mark.parametrize(
    ("mode", "cell"),
    [("stream", kind) for kind in KINDS] + [("records", kind) for kind in RECORD_KINDS],
)
def test_every_recurrence_trains_samples_scores_and_resumes(cell, mode, text_file, capfd):
    trained(capfd, text_file, f"model.cell={cell}", f"corpus.mode={mode}")
    assert ok(capfd, "sample", "run", "--seed", 1, "--length", 20) == ok(
        capfd, "sample", "run", "--seed", 1, "--length", 20
    )
    score = json.loads(ok(capfd, "eval", "perplexity", "run", "--json"))
    metrics = [
        json.loads(line)
        for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    if (
        cell != "bag"
    ):  # A bag remembers everything, and a validation stream starts without the text before it.
        assert score["loss_nats"] == pytest.approx(
            min(line["loss_nats"] for line in metrics), abs=0.02
        )
    assert json.loads(ok(capfd, "inspect", "run", "--json"))["parameters"] > 0
    ok(capfd, "train", "--resume", "run", "--steps", 14)
    assert json.loads(Path("run/last/state.json").read_text(encoding="utf-8"))["step"] == 14


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_of_the_network_works_from_the_command_line(overrides, text_file, capfd):
    trained(capfd, text_file, *overrides)
    assert len(ok(capfd, "sample", "run", "--length", 20)) > 10
    assert json.loads(ok(capfd, "eval", "perplexity", "run", "--json"))["perplexity"] > 1
    ok(capfd, "train", "--resume", "run", "--steps", 14)


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_a_backward_model_writes_the_text_before_the_prompt(mode, text_file, capfd):
    rate = "training.learning_rate=2e-2"
    trained(capfd, text_file, "model.direction=backward", f"corpus.mode={mode}", rate, steps=150)
    (line,) = ok(
        capfd, "sample", "run", "--prompt", "roof.", "--temperature", 0, "--length", 14
    ).splitlines()[-1:]
    assert line.endswith("on the roof.")
    first, _ = (
        json.loads(text)
        for text in ok(capfd, "sample", "run", "--count", 2, "--json", "--seed", 1).splitlines()
    )
    assert first["text"] == json.loads(ok(capfd, "sample", "run", "--json", "--seed", 1))["text"]


@pytest.mark.parametrize("level", ["char", "word"])
def test_a_model_of_both_directions_fills_gaps_and_refuses_to_sample(level, text_file, capfd):
    rate = "training.learning_rate=2e-2"
    trained(
        capfd,
        text_file,
        "model.direction=both",
        "corpus.mode=records",
        rate,
        f"tokenizer.level={level}",
        steps=300,
    )
    filled = ok(
        capfd,
        "sample",
        "run",
        "--fill",
        "The cat sat on the ____.",
        "--count",
        3,
        "--temperature",
        0,
    ).splitlines()
    assert len(set(filled)) == 3
    assert filled[0] in {
        f"The cat sat on the {place}." for place in ("mat", "roof", "lawn", "wall")
    }
    (one,) = ok(
        capfd, "sample", "run", "--fill", "The cat ____ on the mat.", "--json", "--seed", 3
    ).splitlines()
    one = json.loads(one)
    assert one["text"] == f"The cat {one['gap']} on the mat." and one["log_probability"] < 0
    assert "--fill" in refused(capfd, "sample", "run")
    assert "has 2" in refused(capfd, "sample", "run", "--fill", "____ sat ____.", status=2)
    assert "--top-k" in refused(capfd, "sample", "run", "--fill", "____", "--top-k", 3, status=2)
    assert "--fill" in refused(capfd, "sample", "run", "--fill", "The ÿ ____.")
    assert json.loads(ok(capfd, "eval", "perplexity", "run", "--json"))["loss_nats"] < 3


def test_a_model_of_one_direction_refuses_a_gap(text_file, capfd):
    trained(capfd, text_file)
    assert "model.direction=both" in refused(capfd, "sample", "run", "--fill", "The ____.")


@pytest.mark.parametrize("frozen", [False, True])
def test_pretrained_vectors_are_read_reported_and_saved(frozen, text_file, capfd, empty_folder):
    rows = [
        " ".join([word, *(str(number / 8 - index) for index in range(8))])
        for number, word in enumerate(["cat", "dog"])
    ]
    (empty_folder / "vectors.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    overrides = ["tokenizer.level=word", "model.embedding=pretrained", "model.vectors=vectors.gz"]
    changes = [part for override in overrides for part in ("--set", override)]
    frozen_too = ["--set", "model.freeze_embedding=true"] if frozen else []
    assert (
        charlm(
            [
                "train",
                str(text_file),
                *SETTINGS,
                *changes,
                *frozen_too,
                "--steps",
                "4",
                "--out",
                "run",
            ]
        )
        == 0
    )
    assert "% of the vocabulary is in" in capfd.readouterr().err
    names = [
        tensor["name"] for tensor in json.loads(ok(capfd, "inspect", "run", "--json"))["tensors"]
    ]
    assert "embedding.weight" in names
    (empty_folder / "vectors.gz").unlink()
    ok(capfd, "sample", "run", "--length", 5)
    ok(capfd, "train", "--resume", "run", "--steps", 6)


def test_vectors_of_another_size_are_refused_before_anything_is_written(
    text_file, capfd, empty_folder
):
    (empty_folder / "vectors.txt").write_text("cat 1 2 3\n")
    changes = [
        "--set",
        "model.embedding=pretrained",
        "--set",
        "model.vectors=vectors.txt",
        "--set",
        "tokenizer.level=word",
    ]
    budget = ["--steps", 4]  # Otherwise the speed of this machine is measured first.
    line = refused(capfd, "train", text_file, *SETTINGS, *changes, *budget, "--out", "run")
    assert "model.embedding_size=3" in line
    assert not (empty_folder / "run").exists()


def test_impossible_cells_are_refused_with_the_reason(text_file, capfd):
    cell = "model.cell={kind: gru, coupled: true}"
    line = refused(capfd, "train", text_file, "--set", cell, "--out", "run", status=2)
    assert "--set" in line and "coupled: is an option of lstm, not of gru; remove it" in line


def test_the_configuration_of_a_run_contains_only_the_options_of_its_cell(
    text_file, capfd, empty_folder
):
    trained(capfd, text_file, "model.cell={kind: gru, reset: none}")
    text = (empty_folder / "run" / "config.yaml").read_text(encoding="utf-8")
    assert "reset: none" in text and "peepholes" not in text


def test_the_text_of_these_tests_contains_the_words_they_need():
    assert "cat" in TEXT and "mat" in TEXT

"""`sample --int8` and `eval perplexity --int8`, and the same in Python."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import small_config, train_all

import charlm as package
from charlm.cli.main import run as charlm
from charlm.errors import CharlmError, OptionError
from charlm.sampling import speed
from charlm.trained_model import with_int8


@pytest.fixture(scope="module")
def large(text_file, tmp_path_factory) -> Path:
    """A run folder of a model whose recurrent product is large enough for int8."""
    folder = tmp_path_factory.mktemp("large") / "run"
    overrides = ["model.hidden_size=192", "training.steps=20", "training.learning_rate=1e-2"]
    train_all(small_config(text_file, *overrides), folder)
    return folder


def ok(capfd, *arguments: object) -> tuple[str, str]:
    """Run a command that must succeed; return what it printed on stdout and on stderr."""
    status = charlm(list(map(str, arguments)))
    out, err = capfd.readouterr()
    assert status == 0, err
    return out, err


def pretend_steps_take(monkeypatch, *seconds: float) -> None:
    durations = iter(seconds)
    monkeypatch.setattr(speed, "seconds_per_step", lambda model: next(durations))


def test_the_score_in_int8_is_beside_that_of_fp32(large, capfd):
    arguments = ("eval", "perplexity", large, "--int8", "--device", "cpu")
    score = json.loads(ok(capfd, *arguments, "--json")[0])
    in_int8, difference = score["int8"], score["int8"]["difference_nats"]
    assert difference == in_int8["loss_nats"] - score["loss_nats"]
    assert 0 < abs(difference) < 0.005
    assert in_int8["perplexity"] == pytest.approx(math.exp(in_int8["loss_nats"]))
    ratio = in_int8["loss_nats"] / score["loss_nats"]
    assert in_int8["bits_per_character"] == pytest.approx(score["bits_per_character"] * ratio)
    table = ok(capfd, *arguments)[0].splitlines()
    assert table[0].split() == ["fp32", "int8"]
    assert table[1].split()[0] == "loss_nats" and len(table[1].split()) == 3
    assert f"int8 minus fp32 {difference:+.5f} nats per token" in [
        " ".join(line.split()) for line in table
    ]
    assert "int8" not in ok(capfd, "eval", "perplexity", large)[0]


def test_texts_are_written_in_int8(large, capfd, monkeypatch):
    pretend_steps_take(monkeypatch, 1e-6, 2e-6)
    arguments = ("sample", large, "--seed", 1, "--length", 20, "--json")
    out, err = ok(capfd, *arguments, "--int8")
    assert not err
    written, in_fp32 = json.loads(out), json.loads(ok(capfd, *arguments)[0])
    assert written["products"] == "int8" and "products" not in in_fp32
    assert written["log_probabilities"] != in_fp32["log_probabilities"]
    assert written["log_probabilities"][0] == pytest.approx(
        in_fp32["log_probabilities"][0], abs=0.1
    )


def test_a_processor_that_gains_nothing_is_reported_in_one_line(large, capfd, monkeypatch):
    pretend_steps_take(monkeypatch, 2e-6, 1e-6)
    err = ok(capfd, "sample", large, "--int8", "--length", 5)[1]
    assert "a token takes 2 µs, and 1 µs in fp32" in err and err.count("\n") == 1


def test_a_model_that_is_too_small_for_int8_is_reported_in_one_line(trained, capfd):
    err = ok(capfd, "sample", trained, "--int8", "--length", 5)[1]
    assert "no product that is large enough" in err and err.count("\n") == 1


def test_a_step_takes_time(large):
    assert 0 < speed.seconds_per_step(package.load(large).model) < 1


def test_python_computes_in_int8(large):
    run = package.load(large)
    in_int8 = run.with_int8()
    difference = run.perplexity(int8=True).int8.difference_nats
    score = in_int8.perplexity()
    assert score.loss_nats == run.perplexity().loss_nats + difference
    assert score.settings["products"] == "int8"
    assert in_int8.sample(length=5)[0].text
    state = in_int8.sample(length=5, state_out=large.parent / "state")[0].state
    assert run.sample(length=5, state_in=large.parent / "state") and state is not None
    with pytest.raises(CharlmError, match="int8 products has no gradients"):
        in_int8.perplexity(dynamic=True)


def test_int8_needs_the_processor_and_fp32(large):
    with pytest.raises(OptionError, match="choose the device cpu"):
        with_int8(replace(package.load(large).trained, device=torch.device("cuda")))
    with pytest.raises(OptionError, match="int8: is compared with precision fp32"):
        package.load(large).perplexity(int8=True, precision="bf16")

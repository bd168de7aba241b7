"""Lessons of the documentation: their commands, run as a reader runs them, show what they teach."""

import json
import shlex
from pathlib import Path

import pytest

from charlm.cli.main import run as charlm

LESSONS = Path(__file__).parents[2] / "docs" / "lessons.md"
HEADING = "## Measure the gradient over time\n"


def commands(options: str) -> list[list[str]]:
    """Return the arguments of the lesson's commands that begin with `options`."""
    section = LESSONS.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    joined = section.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    charlm ")]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"charlm {options}")]


def relative(gradients: dict, part: str) -> list[float]:
    """Return the relative norms of one part of the state by distance."""
    (curve,) = [curve for curve in gradients["curves"] if curve["part"] == part]
    return [row["relative"] for row in curve["distances"]]


def test_the_commands_of_the_gradient_lesson_pin_their_settings_and_measure_the_verb():
    trainings, measurements = commands("train"), commands("eval gradients")
    assert len(trainings) >= 4 and len(measurements) >= 7
    assert all(command[1:3] == ["--config", "agreement"] for command in trainings)
    assert all("--at" in command for command in measurements)


@pytest.mark.slow
def test_the_gradient_vanishes_sooner_in_the_elman_network_than_in_the_gated_ones(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    for command in commands("train"):
        if "runs/" in command[-1]:
            assert charlm(command) == 0
    measured = {}
    for command in commands("eval gradients"):
        capfd.readouterr()
        assert charlm([*command, "--json"]) == 0
        out, err = capfd.readouterr()
        assert err == ""  # No warning: there is a loss where the gradient is measured.
        name = command[2].removeprefix("runs/")
        measured[name, "--untrained" in command] = json.loads(out)
    for untrained in (False, True):
        elman = relative(measured["elman", untrained], "hidden")[16]
        gru = relative(measured["gru", untrained], "hidden")[16]
        lstm = relative(measured["lstm", untrained], "hidden")[16]
        memory = relative(measured["lstm", untrained], "memory")[16]
        assert elman < gru, untrained
        assert elman < lstm < memory, untrained
    # The bound is exact: gain to the power of the distance.
    halves = relative(measured["half", True], "hidden")
    assert all(ratio <= 0.5**distance + 1e-12 for distance, ratio in enumerate(halves))
    assert len(halves) > 16

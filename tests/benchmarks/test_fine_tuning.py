"""The benchmark of fine-tuning: its cases, its methods of adaptation, and its table."""

import pytest
import torch
from benchmark_modules import load, parse

from charlm.config.model import Model
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel, named_weights

fine_tuning = load("fine_tuning")
OLD, NEW, FIRST = (torch.tensor([number]) for number in (1.0, 2.0, 0.0))


def test_random_weights_come_before_every_start_replay_and_adaptation(monkeypatch):
    command = "a.txt:b.txt c.txt:d.txt --from x=runs/x --replay 0 0.1 --adaptation l2"
    options = parse(fine_tuning, monkeypatch, *command.split())
    described = [fine_tuning.describe(case) for case in fine_tuning.cases(options)]
    ends = ["from random", "from x, replay 0", "from x, replay 0.1", "from x, replay 0, l2"]
    assert described == [f"{name}, {end}" for name in ("a.txt", "c.txt") for end in ends]
    assert {case.held_out for case in fine_tuning.cases(options)} == {"b.txt", "d.txt"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["a.txt"], "TEXT:HELD_OUT: must be"), (["a:b", "--from", "x"], "--from: must be")],
)
def test_a_pair_that_is_none_is_wrong_usage(arguments, problem, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(fine_tuning, monkeypatch, *arguments)
    assert problem in capsys.readouterr().err


def test_a_wrong_run_is_noticed_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "measure", None)
    parse(fine_tuning, monkeypatch, "a.txt:b.txt", "--from", f"x={tmp_path / 'x'}")
    with pytest.raises(CharlmError, match="x: no such run folder"):
        fine_tuning.main()


def moved(adaptation: str, *, depth: int, rate: float = 0.01, done: float = 0.5) -> float:
    """Return where a weight is after a step from 1 to 2; its first value was 0."""
    step = fine_tuning.Step(depth, rate, done)
    return fine_tuning.MOVES[adaptation](NEW, OLD, FIRST, step).item()


def test_methods_of_adaptation_by_hand():
    steps = [moved("discriminative", depth=depth) for depth in range(3)]
    assert steps == pytest.approx([2, 1 + 1 / 2.6, 1 + 1 / 2.6**2])
    for done, frozen in ((0.1, [2, 1, 1]), (0.3, [2, 2, 1]), (0.4, [2, 2, 2])):
        assert [moved("unfreezing", depth=depth, done=done) for depth in range(3)] == frozen, done
    assert moved("l2", depth=1) == pytest.approx(2 * (1 - 0.1))
    assert moved("l2", depth=1, rate=1.0) == 0


def test_the_depth_of_a_weight_is_that_of_its_part_of_the_network():
    section = Model(hidden_size=8, embedding_size=4, num_layers=2, ngrams=2, tied=True)
    model = LanguageModel(section, 9)
    depths = {name: fine_tuning.depth_of(name) for name, _ in named_weights(model)}
    assert {name: depth for name, depth in depths.items() if depth != 1} == {
        "embedding.weight": 2,
        "ngrams.weight": 2,
        "bridge.weight": 0,
        "projection.bias": 0,
    }
    assert all("recurrence" in name for name, depth in depths.items() if depth == 1)

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


def test_every_weight_belongs_to_a_part_of_the_network():
    model = LanguageModel(Model(hidden_size=8, embedding_size=4, num_layers=2, ngrams=2), 9)
    parts = {name: fine_tuning.layer_of(name) for name, _ in named_weights(model)}
    assert set(parts.values()) == set(fine_tuning.DEPTHS)
    assert all(part in name for name, part in parts.items() if "ngram" not in name)


def test_the_table_has_medians_and_the_range_of_the_loss():
    case = {"text": "a.txt", "held_out": "b.txt", "start": "random", "folder": ""}
    names = ("loss_nats", "bits_per_character", "steps", "training_seconds")
    same = {"median": 2000.0, "lowest": 1000.0, "highest": 3000.0}
    scores = dict.fromkeys(names, same) | {"old_text_before": same, "old_text_after": same}
    assert fine_tuning.cells_of({"case": case, "scores": scores}) == [
        "a.txt, from random",
        "2,000.000 (1,000.000 to 3,000.000)",
        "2000.000",
        "2,000",
        "2000",
        "2000.000 → 2000.000",
    ]

"""A token at a time, from a table: the same predictions as those of a window."""

import pytest
import torch
from model.cells_table import CELLS, every_cell

from charlm.config.schema import Model
from charlm.model.language_model import LanguageModel
from charlm.sampling import stepper
from charlm.sampling.stepper import Stepper

VOCABULARY, BATCH = 9, 3
AROUND = {
    "residual_norm": {"num_layers": 3, "skip": "residual", "layer_norm": True},
    "sum_learned_state": {"num_layers": 2, "skip": "sum", "initial_state": "learned"},
    "tied_bridge": {"tied": True},
    "one_hot": {"embedding": "one_hot"},
    "mixture": {"mixture": 2},
    "backward": {"direction": "backward"},
    "dropout": {
        "output_dropout": 0.5,
        "embedding_dropout": 0.5,
        "weight_dropout": 0.5,
        "word_dropout": 0.5,
    },
}


def make(**fields: object) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(
        Model(**{"hidden_size": 5, "embedding_size": 4, **fields}), VOCABULARY
    ).eval()


def assert_steps_as_a_window(model: LanguageModel) -> None:
    ids = torch.randint(VOCABULARY, (6, BATCH), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, states_after = model(ids)
        step, states = Stepper(model), model.initial_states(BATCH)
        for row, logits in zip(ids, expected, strict=True):
            found, states = step(row, states)
            torch.testing.assert_close(found, logits)
    for state, after in zip(states, states_after, strict=True):
        for part, wanted in zip(state, after, strict=True):
            torch.testing.assert_close(part, wanted)


@every_cell
def test_every_recurrence_steps_as_over_a_window(name):
    assert_steps_as_a_window(make(cell=CELLS[name]))


@pytest.mark.parametrize("fields", AROUND.values(), ids=AROUND)
def test_what_stands_around_a_recurrence_is_there_in_a_step(fields):
    assert_steps_as_a_window(make(**fields))


def test_a_vocabulary_too_large_for_a_table_is_stepped_through_without_one(monkeypatch):
    monkeypatch.setattr(stepper, "_LARGEST_TABLE", 10)
    model = make(num_layers=2)
    assert Stepper(model)._rows is not None and not Stepper(model)._is_projected
    assert_steps_as_a_window(model)


def test_weights_that_changed_since_are_seen_by_a_new_one():
    model = make()
    with torch.no_grad():
        model.encoder.embedding.weight += 1
    assert_steps_as_a_window(model)

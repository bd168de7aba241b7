"""One token per step, from a table, predicts the same as a window."""

import torch
from model.cells_table import CELLS

from charlm.config.model import Model
from charlm.model.language_model import LanguageModel
from charlm.sampling.stepper import Stepper

VOCABULARY, BATCH = 9, 3
AROUND = {
    "residual_norm": {"num_layers": 3, "skip": "residual", "layer_norm": True},
    "sum_learned_state": {"num_layers": 2, "skip": "sum", "initial_state": "learned"},
    "tied_adapter": {"tied": True},
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


def assert_steps_equal_a_window(model: LanguageModel, name: str = "", **options: object) -> None:
    def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(actual, expected, msg=lambda message: f"{name}: {message}")

    ids = torch.randint(VOCABULARY, (6, BATCH), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, states_after = model(ids)
        step, states = Stepper(model, **options), model.initial_states(BATCH)
        for row, expected_row in zip(ids, expected, strict=True):
            logits, states = step(row, states)
            close(logits, expected_row)
    for state, state_after in zip(states, states_after, strict=True):
        for part, expected_part in zip(state, state_after, strict=True):
            close(part, expected_part)


def test_steps_of_every_cell_predict_the_same_as_a_window():
    for name, section in CELLS.items():
        assert_steps_equal_a_window(make(cell=section), name)


def test_steps_include_all_that_surrounds_the_cells():
    for name, fields in AROUND.items():
        assert_steps_equal_a_window(make(**fields), name)


def test_a_vocabulary_too_large_for_a_table_works_without_one():
    model = make(num_layers=2)
    assert not Stepper(model, max_table_size=10)._is_projected
    assert Stepper(model, max_table_size=None)._is_projected
    assert_steps_equal_a_window(model, max_table_size=10)


def test_a_new_stepper_uses_the_present_weights():
    model = make()
    with torch.no_grad():
        model.encoder.embedding.weight += 1
    assert_steps_equal_a_window(model)

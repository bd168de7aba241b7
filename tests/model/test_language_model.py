"""The whole network: shapes, causality, tied matrices, skip connections, sizes."""

import pytest
import torch

from charlm.config import Model
from charlm.model.language_model import LanguageModel, count_parameters

VOCABULARY = 11


def make(**fields: object) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Model(**{"hidden_size": 6, "embedding_size": 4, **fields}), VOCABULARY).eval()


def ids(time: int = 7, batch: int = 3) -> torch.Tensor:
    return torch.randint(VOCABULARY, (time, batch), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm", {"kind": "elman", "activation": "sigmoid"}])
@pytest.mark.parametrize("skip", ["none", "residual", "sum"])
def test_changing_a_later_token_leaves_earlier_logits_alone(cell, skip):
    model = make(cell=cell, num_layers=2, skip=skip)
    before = ids()
    after = before.clone()
    after[4] = (after[4] + 1) % VOCABULARY
    difference = (model(before)[0] - model(after)[0]).abs().amax(dim=(1, 2))
    assert (difference[:4] == 0).all()
    assert (difference[4:] > 0).all()


def test_a_window_in_two_pieces_gives_the_logits_of_one():
    model = make(num_layers=2)
    whole, _ = model(ids())
    first, states = model(ids()[:3])
    rest, _ = model(ids()[3:], states)
    torch.testing.assert_close(torch.cat([first, rest]), whole)


def test_a_tied_model_has_one_matrix_less():
    untied, tied = make(embedding_size=6), make(embedding_size=6, tied=True)
    sizes = [sum(size for _, _, size in count_parameters(model)) for model in (untied, tied)]
    assert sizes[0] - sizes[1] == VOCABULARY * 6
    assert tied.projection.weight is tied.embedding.weight


def test_a_tied_model_of_two_widths_has_a_bridge_between_them():
    model = make(tied=True)
    assert model.bridge.weight.shape == (4, 6)
    assert model(ids())[0].shape == (7, 3, VOCABULARY)


def test_residual_adds_what_goes_into_a_layer_to_what_comes_out():
    model = make(num_layers=2, skip="residual")
    plain = make(num_layers=2)
    plain.load_state_dict(model.state_dict())
    x, states = model.embedding(ids()), model.recurrence.initial_states(3)
    first, _ = model.recurrence.layers[0].kernel(x)
    torch.testing.assert_close(model.recurrence(x, states)[0], first + model.recurrence.layers[1].kernel(first)[0])
    torch.testing.assert_close(plain.recurrence(x, states)[0], model.recurrence.layers[1].kernel(first)[0])


def test_sum_adds_up_the_outputs_of_all_layers():
    model = make(num_layers=2, skip="sum")
    x, states = model.embedding(ids()), model.recurrence.initial_states(3)
    first, _ = model.recurrence.layers[0].kernel(x)
    torch.testing.assert_close(model.recurrence(x, states)[0], first + model.recurrence.layers[1].kernel(first)[0])


def test_dropout_acts_while_training_alone():
    model = make(dropout=0.5, embedding_dropout=0.5, output_dropout=0.5, num_layers=2)
    torch.testing.assert_close(model(ids())[0], model(ids())[0])
    model.train()
    assert (model(ids())[0] != model(ids())[0]).any()


def test_an_lstm_has_the_parameters_that_the_textbook_counts():
    hidden, embedded = 6, 4
    total = sum(size for _, _, size in count_parameters(make()))
    lstm = 4 * (hidden * embedded + hidden * hidden + 2 * hidden)  # Two biases a gate, as torch keeps them.
    assert total == VOCABULARY * embedded + lstm + VOCABULARY * (hidden + 1)

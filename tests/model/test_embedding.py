"""Embeddings: one-hot, learned, and read from elsewhere."""

import pytest
import torch

from charlm.config.schema import Model
from charlm.model.embedding import OneHot, make_embedding, put_vectors
from charlm.model.language_model import LanguageModel


def test_a_one_hot_embedding_is_the_token_s_unit_vector():
    embedding = make_embedding(Model(embedding="one_hot"), 4)
    assert isinstance(embedding, OneHot) and embedding.embedding_dim == 4
    assert embedding(torch.tensor([[2, 0], [3, 1]])).tolist() == [
        [[0, 0, 1, 0], [1, 0, 0, 0]],
        [[0, 0, 0, 1], [0, 1, 0, 0]],
    ]
    assert list(embedding.parameters()) == []


def test_a_one_hot_model_computes_in_the_type_of_its_weights():
    model = LanguageModel(Model(embedding="one_hot", hidden_size=3, cell="gru"), 4).double()
    assert model(torch.tensor([[2], [0]]))[0].dtype == torch.float64


def test_the_first_layer_s_input_matrix_is_the_embedding_of_a_one_hot_model():
    """Its columns are the tokens' vectors: one-hot is the same model as a learned embedding before an identity."""
    torch.manual_seed(1)
    model = LanguageModel(Model(embedding="one_hot", hidden_size=3, cell="min_gru"), 4)
    weights = model.encoder.recurrence.layers[0].input
    ids = torch.tensor([[2, 0], [3, 1]])
    projected = model.encoder.recurrence.layers[0].project(model.encoder.embedding(ids))
    torch.testing.assert_close(projected, weights.weight.T[ids] + weights.bias)


def test_a_learned_embedding_has_the_size_asked_for_and_learns():
    embedding = make_embedding(Model(embedding_size=5), 4)
    assert embedding.weight.shape == (4, 5) and embedding.weight.requires_grad


@pytest.mark.parametrize("freeze", [False, True])
def test_pretrained_vectors_are_trained_unless_frozen(freeze):
    section = Model(
        embedding="pretrained",
        vectors="x.txt",
        freeze_embedding=freeze,
        embedding_size=5,
        hidden_size=3,
    )
    torch.manual_seed(1)
    model = LanguageModel(section, 4)
    assert model.encoder.embedding.weight.requires_grad is not freeze
    model(torch.tensor([[2], [0]]))[0].sum().backward()
    assert (model.encoder.embedding.weight.grad is None) is freeze
    assert model.encoder.recurrence.layers[0].input.weight.grad.any()


def vectors(rows: int, found: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of which the first are known, each unit with a mean and a spread of its own; the others are NaN."""
    torch.manual_seed(2)
    known = torch.randn(found, 3) * torch.tensor([0.1, 1.0, 5.0]) + torch.tensor([7.0, 0.0, -20.0])
    return torch.cat([known, torch.full((rows - found, 3), torch.nan)]), torch.arange(rows) < found


def test_vectors_that_were_found_are_put_in_as_they_are():
    embedding = torch.nn.Embedding(6, 3)
    rows, found = vectors(6, 4)
    put_vectors(embedding, rows, found)
    assert embedding.weight[:4].equal(rows[:4])
    assert embedding.weight.isfinite().all() and embedding.weight.requires_grad


def test_rows_that_were_not_found_look_like_those_that_were():
    embedding = torch.nn.Embedding(9000, 3)
    rows, found = vectors(9000, 4000)
    put_vectors(embedding, rows, found)
    drawn, known = embedding.weight.detach()[4000:], rows[:4000]
    spread = known.std(dim=0)
    assert ((drawn.mean(dim=0) - known.mean(dim=0)).abs() < 0.05 * spread).all()
    assert ((drawn.std(dim=0) / spread - 1).abs() < 0.05).all()
    assert len(drawn.unique(dim=0)) == 5000


def test_one_vector_that_was_found_is_enough():
    embedding = torch.nn.Embedding(6, 3)
    put_vectors(embedding, *vectors(6, 1))
    assert embedding.weight.isfinite().all()


def test_rows_are_drawn_from_the_seed():
    drawn = []
    for seed in (3, 3, 4):
        embedding, (rows, found) = torch.nn.Embedding(6, 3), vectors(6, 4)
        torch.manual_seed(seed)
        put_vectors(embedding, rows, found)
        drawn.append(embedding.weight.detach())
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])

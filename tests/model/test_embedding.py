"""Embeddings: one-hot, learned, and read from a file of vectors."""

import pytest
import torch

from charlm.config.model import Model
from charlm.model.embedding import OneHot, make_embedding, put_vectors
from charlm.model.language_model import LanguageModel


def test_a_one_hot_embedding_is_the_unit_vector_of_the_token():
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


def test_the_input_matrix_of_the_first_layer_takes_the_place_of_a_one_hot_embedding():
    """Its columns are the vectors of the tokens."""
    torch.manual_seed(1)
    model = LanguageModel(Model(embedding="one_hot", hidden_size=3, cell="min_gru"), 4)
    weights = model.encoder.recurrence.layers[0].input
    ids = torch.tensor([[2, 0], [3, 1]])
    projected = model.encoder.recurrence.layers[0].project(model.encoder.embedding(ids))
    torch.testing.assert_close(projected, weights.weight.T[ids] + weights.bias)


def test_a_learned_embedding_has_the_given_size_and_is_trained():
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


def vectors(rows: int, num_known: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors and whether each is known: first the known ones, then rows of NaN.

    Each unit of the known ones has its own mean and standard deviation.
    """
    torch.manual_seed(2)
    known = torch.randn(num_known, 3) * torch.tensor([0.1, 1.0, 5.0])
    known += torch.tensor([7.0, 0.0, -20.0])
    unknown = torch.full((rows - num_known, 3), torch.nan)
    return torch.cat([known, unknown]), torch.arange(rows) < num_known


def test_known_vectors_are_put_in_unchanged():
    embedding = torch.nn.Embedding(6, 3)
    rows, is_known = vectors(6, 4)
    put_vectors(embedding, rows, is_known)
    assert embedding.weight[:4].equal(rows[:4])
    assert embedding.weight.isfinite().all() and embedding.weight.requires_grad


def test_unknown_vectors_have_the_mean_and_deviation_of_the_known_ones():
    embedding = torch.nn.Embedding(9000, 3)
    rows, is_known = vectors(9000, 4000)
    put_vectors(embedding, rows, is_known)
    drawn, known = embedding.weight.detach()[4000:], rows[:4000]
    deviation = known.std(dim=0)
    assert ((drawn.mean(dim=0) - known.mean(dim=0)).abs() < 0.05 * deviation).all()
    assert ((drawn.std(dim=0) / deviation - 1).abs() < 0.05).all()
    assert len(drawn.unique(dim=0)) == 5000


def test_one_known_vector_is_enough():
    embedding = torch.nn.Embedding(6, 3)
    put_vectors(embedding, *vectors(6, 1))
    assert embedding.weight.isfinite().all()


def test_unknown_vectors_depend_on_the_seed():
    drawn = []
    for seed in (3, 3, 4):
        embedding, (rows, is_known) = torch.nn.Embedding(6, 3), vectors(6, 4)
        torch.manual_seed(seed)
        put_vectors(embedding, rows, is_known)
        drawn.append(embedding.weight.detach())
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])

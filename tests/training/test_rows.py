"""Steps of hash tables: the rows in use, by the equation, and no others."""

from itertools import islice

import pytest
import torch
from small_models import VOCABULARY, make_model

from charlm.config.training import Training
from charlm.model.ngrams import NgramEmbedding
from charlm.training.clipping import clip
from charlm.training.optimizer import make_optimizer

OPTIMIZERS = ("adamw", "adam", "nadam", "rmsprop", "sgd", "muon")
NGRAMS = {"ngrams": 3, "ngram_buckets": 40, "ngram_width": 3}
RATE, BETA = 0.01, 0.9


def section(optimizer: str = "adamw", **options) -> Training:
    return Training(optimizer=optimizer, learning_rate=RATE, beta2=BETA, **options)


def windows(count: int):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randint(0, VOCABULARY, (5, 2), generator=generator)


def trained(optimizer: str, *, sparse: bool, steps: int = 3, **options):
    """Return a model after some steps, and its optimizer."""
    model = make_model(**NGRAMS).train()
    model.encoder.ngrams.has_sparse_gradient = sparse
    settings = section(optimizer, **options)
    made = make_optimizer(model, settings)
    for ids in windows(steps):
        take_step(model, made, ids, settings)
    return model, made


def take_step(model, optimizer, ids, settings) -> None:
    model.zero_grad(set_to_none=True)
    model(ids)[0].square().sum().backward()
    clip(model.parameters(), clipnorm=settings.clipnorm, clipvalue=settings.clipvalue)
    optimizer.step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sparse_gradient_gives_the_steps_of_a_dense_one(optimizer):
    options = {"clipnorm": 0.5, "clipvalue": 0.1, "decay_embeddings": True}
    sparse, _ = trained(optimizer, sparse=True, **options)
    dense, _ = trained(optimizer, sparse=False, **options)
    for (name, one), other in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("sparse", [True, False])
def test_rows_in_use_follow_the_equation_and_the_others_stay(sparse):
    model = make_model(**NGRAMS).train()
    tables = model.encoder.ngrams
    tables.has_sparse_gradient = sparse
    optimizer = make_optimizer(model, section(weight_decay=0.5, decay_embeddings=True))
    weight = tables.weight.detach().clone()
    squares, counts = torch.zeros(len(weight)), torch.zeros(len(weight))
    for ids in windows(4):
        model.zero_grad(set_to_none=True)
        model(ids)[0].square().sum().backward()
        gradient = tables.weight.grad.to_dense()
        used = gradient.ne(0).any(dim=1).nonzero()[:, 0].tolist()
        assert 0 < len(used) < len(weight)
        for row in used:
            counts[row] += 1
            squares[row] = BETA * squares[row] + (1 - BETA) * gradient[row].square().mean()
            size = (squares[row] / (1 - BETA ** counts[row])).sqrt() + 1e-8
            weight[row] = weight[row] * (1 - RATE * 0.5) - RATE * gradient[row] / size
        before = tables.weight.detach().clone()
        optimizer.step()
        others = [row for row in range(len(weight)) if row not in used]
        assert torch.equal(tables.weight[others], before[others])
        torch.testing.assert_close(tables.weight.detach(), weight)


def test_clipping_counts_each_row_once():
    model, _ = trained("adamw", sparse=True, steps=0)
    tables = model.encoder.ngrams
    (ids,) = windows(1)
    norms = []
    for sparse in (True, False):
        tables.has_sparse_gradient = sparse
        model.zero_grad(set_to_none=True)
        model(ids)[0].square().sum().backward()
        clipping = clip(model.parameters(), clipnorm=0.1, clipvalue=0.01)
        assert clipping.by_norm and clipping.by_value
        norms.append((clipping.norms, tables.weight.grad.to_dense()))
    torch.testing.assert_close(norms[0], norms[1])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_optimizer_continues_to_the_bit(optimizer):
    settings = section(optimizer)
    model, made = trained(optimizer, sparse=True)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved = made.state_dict()
    other = make_model(**NGRAMS).train()
    other.encoder.ngrams.has_sparse_gradient = True
    other.load_state_dict(weights)
    restored = make_optimizer(other, settings)
    restored.load_state_dict(
        {
            "state": {
                index: {name: torch.as_tensor(value).clone() for name, value in state.items()}
                for index, state in saved["state"].items()
            },
            "param_groups": restored.state_dict()["param_groups"],
        }
    )
    for ids in islice(windows(5), 3, None):
        take_step(model, made, ids, settings)
        take_step(other, restored, ids, settings)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_counts_of_a_restored_optimizer_are_on_the_device_of_the_table(optimizer):
    saved = trained(optimizer, sparse=False)[1].state_dict()
    tables = make_model(**NGRAMS).encoder.ngrams.to("meta")
    made = make_optimizer(tables, section(optimizer))
    (number,) = saved["param_groups"][-1]["params"]
    made.load_state_dict({**made.state_dict(), "state": {0: saved["state"][number]}})
    tables.weight.grad = torch.ones_like(tables.weight)
    made.step()
    assert {value.device.type for value in made.state[tables.weight].values()} == {"meta"}


def test_a_dropped_row_is_not_updated():
    tables = NgramEmbedding(order=2, buckets=20, row_width=2, dropout=0.5)
    tables.has_sparse_gradient = True
    optimizer = make_optimizer(tables, section())
    before = tables.weight.detach().clone()
    torch.manual_seed(1)
    rows, _ = tables(torch.arange(1, 17)[:, None], torch.zeros(1, 1))
    rows.sum().backward()
    dropped = (rows == 0).all(dim=-1)[:, 0]
    optimizer.step()
    numbers = tables.rows(torch.arange(17)[:, None])[:, 0, 0]
    changed = set((tables.weight != before).any(dim=1).nonzero()[:, 0].tolist())
    assert 0 < int(dropped.sum()) < 16
    assert changed == set(numbers[~dropped].tolist())

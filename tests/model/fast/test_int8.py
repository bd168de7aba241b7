"""Products in int8: the numbers by hand, every cell and projection, and what they refuse."""

from functools import partial

import numpy as np
import pytest
import torch
from model.cells_table import CELLS
from small_models import make_model
from torch import nn

from charlm.errors import CharlmError
from charlm.model.cells.base import FusedCell
from charlm.model.fast import int8
from charlm.model.fast.int8 import Int8Matrix, has_int8_products
from charlm.model.fast.products import Matrix
from charlm.model.language_model import weights_checksum
from charlm.model.recurrence import run_stepwise

with_int8_products = partial(int8.with_int8_products, min_weights=0)
PROJECTIONS = {
    "linear": {},
    "tied": {"tied": True},
    "tied and adapted": {"tied": True, "hidden_size": 24},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": (3, 9)},
}


def models(**options: object):
    """Yield a model of each cell and of each projection, by name."""
    sizes = {"hidden_size": 16, "embedding_size": 16, "vocabulary_size": 20, "sharpness": 1}
    for name, cell in CELLS.items():
        yield name, make_model(**sizes | {"cell": cell} | options)
    for name, projection in PROJECTIONS.items():
        yield name, make_model(**sizes | projection | options)


@torch.inference_mode()
def test_a_product_is_the_scaled_product_of_rounded_numbers():
    weight = torch.tensor([[1.27, -0.014], [0.5, 0.25]])
    matrix = Int8Matrix(nn.Parameter(weight), nn.Parameter(torch.tensor([10.0, 20.0])))
    vectors = torch.tensor([[2.54, 1.0], [0.0, 0.0], [-127.0, 63.6]])
    # Weights 127, -1 (scale 0.01) and 127, 64 (scale 0.5 / 127); vectors 127, 50 (scale 0.02), 0, 0
    # and -127, 64 (scale 1).
    expected = [
        [10 + (127 * 127 - 50) * 0.01 * 0.02, 20 + (127 * 127 + 64 * 50) * 0.5 / 127 * 0.02],
        [10, 20],
        [10 + (-127 * 127 - 64) * 0.01, 20 + (-127 * 127 + 64 * 64) * 0.5 / 127],
    ]
    np.testing.assert_allclose(matrix(vectors).numpy(), expected, rtol=1e-6)


@torch.inference_mode()
def test_every_product_of_every_model_is_in_int8_and_near_fp32():
    ids = torch.randint(2, 20, (6, 3), generator=torch.Generator().manual_seed(1))
    for name, model in models():
        quantized = with_int8_products(model)
        layers = [type(module) for module in quantized.modules()]
        assert Matrix not in layers and nn.Linear not in layers, name
        assert has_int8_products(quantized) and not has_int8_products(model), name
        assert weights_checksum(quantized) == weights_checksum(model), name
        expected, actual = (each(ids)[0].log_softmax(dim=-1) for each in (model, quantized))
        assert 0 < (expected - actual).abs().max() < 0.02 * expected.abs().max(), name


def test_each_product_is_quantized_once(monkeypatch):
    shapes = []
    scales = int8._scales
    monkeypatch.setattr(int8, "_scales", lambda rows: shapes.append(rows.shape) or scales(rows))
    quantized = with_int8_products(make_model(mixture=3))
    kinds = [type(module) for module in quantized.modules()]
    assert len(shapes) == kinds.count(Int8Matrix)


@torch.inference_mode()
def test_a_vector_does_not_depend_on_the_batch():
    ids = torch.randint(2, 20, (6, 5), generator=torch.Generator().manual_seed(1))
    model = with_int8_products(make_model(vocabulary_size=20))
    together, _ = model(ids)
    alone = [model(column[:, None])[0] for column in ids.unbind(dim=1)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_kernel_of_torch_is_replaced_by_steps_and_the_state_is_carried():
    ids = torch.randint(2, 20, (9, 2), generator=torch.Generator().manual_seed(1))
    model = with_int8_products(make_model(vocabulary_size=20, cell={"kind": "gru"}))
    assert isinstance(model.encoder.recurrence.layers[0], FusedCell)
    whole, _ = model(ids)
    first, states = model(ids[:4])
    second, _ = model(ids[4:], states)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(ids, run=run_stepwise)[0], whole, rtol=0, atol=0)


@torch.inference_mode()
def test_a_processor_without_exact_products_gives_the_same_numbers(monkeypatch):
    ids = torch.randint(2, 20, (6, 3), generator=torch.Generator().manual_seed(1))
    model = make_model(vocabulary_size=20)
    expected, _ = with_int8_products(model)(ids)
    monkeypatch.setattr(int8, "multiplies_exactly", lambda: False)
    quantized = with_int8_products(model)
    assert quantized.projection.transposed.dtype == torch.float32
    torch.testing.assert_close(quantized(ids)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "min_gru", "nested_lstm"])
def test_gradients_are_refused(cell):
    model = with_int8_products(make_model(cell=cell))
    with pytest.raises(CharlmError, match="int8 products has no gradients"):
        model(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(CharlmError, match="int8 products has no gradients"):
        next(m for m in model.modules() if isinstance(m, Int8Matrix)).operands(torch.float32)


def test_small_products_stay_in_fp32():
    model = make_model(vocabulary_size=20, hidden_size=200, embedding_size=16)
    quantized = int8.with_int8_products(model)
    names = [name for name, module in quantized.named_modules() if isinstance(module, Int8Matrix)]
    assert names == ["encoder.recurrence.cells.0.recurrent"]  # 800 x 200 weights.
    assert not has_int8_products(int8.with_int8_products(make_model()))

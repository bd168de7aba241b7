"""Packed products: every cell and projection computes what it computes without packed weights."""

import torch
from model.cells_table import CELLS
from small_models import make_model
from torch import nn

from charlm.model.fast import packed
from charlm.model.fast.int8 import Int8Matrix, with_int8_products
from charlm.model.fast.packed import (
    PackedMatrix,
    packed_product,
    product_of,
    with_packed_products,
)
from charlm.model.fast.products import Matrix
from charlm.model.language_model import weights_checksum
from charlm.sampling.stepper import Stepper

PROJECTIONS = {
    "linear": {},
    "tied and adapted": {"tied": True, "hidden_size": 64},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": (3, 9)},
}


def models():
    """Yield a model of each cell and of each projection, by name."""
    sizes = {"hidden_size": 32, "embedding_size": 32, "vocabulary_size": 20, "sharpness": 1}
    for name, cell in CELLS.items():
        yield name, make_model(**sizes | {"cell": cell})
    for name, projection in PROJECTIONS.items():
        yield name, make_model(**sizes | projection)


@torch.inference_mode()
def test_every_model_steps_as_without_packed_weights():
    for name, model in models():
        copied = with_packed_products(model)
        layers = [type(module) for module in copied.modules()]
        assert Matrix not in layers and nn.Linear not in layers, name
        assert weights_checksum(copied) == weights_checksum(model), name
        for batch in (1, 2, 5):
            expected_states = actual_states = model.initial_states(batch)
            plain, fast = Stepper(model), Stepper(copied)
            for token in (2, 7, 3):
                ids = torch.arange(token, token + batch)
                expected, expected_states = plain(ids, expected_states)
                actual, actual_states = fast(ids, actual_states)
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, msg=name)


@torch.inference_mode()
def test_a_row_is_the_same_to_the_last_bit_in_a_batch_of_any_size():
    ids = torch.randint(2, 20, (2, 33), generator=torch.Generator().manual_seed(1))
    for name, model in models():
        step = Stepper(with_packed_products(model))
        whole = model.initial_states(33)
        rows = [model.initial_states(1) for _ in range(33)]
        few = model.initial_states(5)
        for window in ids:
            logits, whole = step(window, whole)
            of_few, few = step(window[:5], few)
            assert torch.equal(of_few, logits[:5]), name
            for row in range(33):
                of_one, rows[row] = step(window[row : row + 1], rows[row])
                assert torch.equal(of_one[0], logits[row]), (name, row)


def test_the_packed_copy_is_multiplied():
    matrix = PackedMatrix(nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4)))
    with torch.no_grad():
        matrix.weight.zero_()  # The packed copy keeps its ones.
        assert matrix(torch.ones(2, 3)).tolist() == [[4.0] * 4] * 2


def test_models_without_packed_functions_or_in_another_type_stay_as_they_are(monkeypatch):
    model = make_model()
    assert with_packed_products(model.double()) is model
    quantized = with_int8_products(make_model(), min_weights=0)
    kinds = [type(module) for module in with_packed_products(quantized).modules()]
    assert PackedMatrix not in kinds and Int8Matrix in kinds
    monkeypatch.setattr(packed, "_has_functions", lambda: False)
    model = make_model()
    assert with_packed_products(model) is model


def test_products_of_a_window_are_those_of_torch_with_and_without_packing(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    weight, vectors = (torch.randn(rows, 48, generator=generator) for rows in (64, 5))
    for can_pack in (True, False):
        if not can_pack:
            monkeypatch.setattr(packed, "_has_functions", lambda: False)
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            given, wanted = vectors.to(dtype), vectors.to(dtype) @ weight.to(dtype).t()
            for product in (
                packed_product(weight.to(dtype), 5)(given),
                product_of(given, weight.to(dtype).t()),
            ):
                assert product.dtype == dtype
                torch.testing.assert_close(product, wanted, rtol=0, atol=tolerance * 50)

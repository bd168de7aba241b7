"""Packed products: every cell and projection computes what it computes without packed weights."""

import torch
from model.cells_table import CELLS
from small_models import make_model
from torch import nn

from charlm.model.fast import packed
from charlm.model.fast.int8 import Int8Matrix, with_int8_products
from charlm.model.fast.packed import PackedMatrix, with_packed_products
from charlm.model.fast.products import Matrix
from charlm.model.language_model import weights_checksum
from charlm.sampling.stepper import Stepper

PROJECTIONS = {
    "linear": {},
    "tied and adapted": {"tied": True, "hidden_size": 24},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": (3, 9)},
}


def models():
    """Yield a model of each cell and of each projection, by name."""
    sizes = {"hidden_size": 16, "embedding_size": 16, "vocabulary_size": 20, "sharpness": 1}
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


def test_a_packed_weight_is_used_from_two_vectors_on():
    matrix = PackedMatrix(nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4)))
    with torch.no_grad():
        matrix.weight.zero_()  # The packed copy keeps its ones.
        assert matrix(torch.ones(1, 3)).tolist() == [[1.0] * 4]
        assert matrix(torch.ones(2, 3)).tolist() == [[4.0] * 4] * 2


def test_models_without_packed_functions_or_in_another_type_stay_as_they_are(monkeypatch):
    model = make_model()
    assert with_packed_products(model.double()) is model
    quantized = with_int8_products(make_model())
    kinds = [type(module) for module in with_packed_products(quantized).modules()]
    assert PackedMatrix not in kinds and Int8Matrix in kinds
    monkeypatch.setattr(packed, "_has_functions", lambda: False)
    model = make_model()
    assert with_packed_products(model) is model

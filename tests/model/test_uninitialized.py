"""Models without initial weights."""

from functools import partial

import pytest
import torch
from model.cells_table import CELLS
from torch import nn

from charlm.config import cell as cell_section
from charlm.config.model import Model
from charlm.model.cells import registry
from charlm.model.cells.base import Cell, State, input_weights
from charlm.model.language_model import LanguageModel, named_weights
from charlm.model.uninitialized import model_of_shapes, uninitialized

uninitialized_model = partial(uninitialized, LanguageModel)

VARIANTS = {
    "tied": {"tied": True, "embedding_size": 8},
    "adapted": {"tied": True},
    "one_hot": {"embedding": "one_hot"},
    "both": {"direction": "both", "layer_norm": True, "initial_state": "learned"},
    "mixture": {"mixture": 2},
    "adaptive": {"adaptive_cutoffs": [4]},
} | {name: {"cell": cell} for name, cell in CELLS.items()}


def section_of(name: str) -> Model:
    return Model(**{"hidden_size": 8, "embedding_size": 6, "num_layers": 2} | VARIANTS[name])


@pytest.mark.parametrize("make", [model_of_shapes, uninitialized_model])
def test_a_model_without_initial_weights_draws_no_number_and_has_the_same_names_and_shapes(make):
    for name in VARIANTS:
        section = section_of(name)
        expected = {key: tensor.shape for key, tensor in named_weights(LanguageModel(section, 9))}
        before = torch.get_rng_state()
        model = make(section, 9)
        shapes = {key: tensor.shape for key, tensor in named_weights(model)}
        assert shapes == expected, name
        assert torch.equal(torch.get_rng_state(), before), name


def test_a_model_whose_weights_are_loaded_computes_what_the_original_computes():
    ids = torch.randint(9, (5, 2))
    for name in VARIANTS:
        torch.manual_seed(1)
        original = LanguageModel(section_of(name), 9).eval()
        model = uninitialized_model(section_of(name), 9).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(9.0)
        weights = dict(named_weights(original))
        with torch.no_grad():
            for key, tensor in named_weights(model):
                tensor.copy_(weights[key])
            assert torch.equal(model(ids)[0], original(ids)[0]), name


def test_a_training_draws_its_initial_weights_after_a_model_without_them():
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(1)
        return list(LanguageModel(section_of("lstm"), 9).parameters())

    before = weights()
    uninitialized_model(section_of("lstm"), 9)
    assert all(map(torch.equal, weights(), before))


class Reservoir(Cell):
    """A cell with fixed random weights that are not in the checkpoint."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, 1)
        fixed = torch.empty(hidden_size, hidden_size)
        fixed.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
        self.register_buffer("fixed", fixed, persistent=False)

    def initialize(self, gain: float = 1.0) -> None:
        nn.init.xavier_uniform_(self.input.weight)

    def step(self, projected: torch.Tensor, state: State) -> State:
        return (torch.tanh(projected + state[0] @ self.fixed),)


def test_what_a_cell_draws_besides_its_parameters_is_drawn(monkeypatch):
    monkeypatch.setattr(cell_section, "_registered_kinds", set())
    monkeypatch.setattr(registry, "_MAKERS", dict(registry._MAKERS))
    registry.register_cell("reservoir", Reservoir)
    section = Model(cell="reservoir", hidden_size=8, embedding_size=6)
    fixed = [
        make(section, 9).get_buffer("encoder.recurrence.cells.0.fixed")
        for make in (LanguageModel, uninitialized_model)
    ]
    assert torch.equal(*fixed) and fixed[0].abs().max() > 0

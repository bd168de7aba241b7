"""Weights in words."""

import re

from model.cells_table import CELLS

from charlm.config.model import Model
from charlm.model.descriptions import describe_weights
from charlm.model.language_model import count_parameters
from charlm.model.uninitialized import model_of_shapes

VARIANTS = {
    "tied": {"tied": True},
    "mixture": {"mixture": 2},
    "adaptive": {"adaptive_cutoffs": [4]},
    "one_hot": {"embedding": "one_hot", "cell": "gru"},
    "both": {"direction": "both", "layer_norm": True, "initial_state": "learned"},
    "blocks": {"block": "griffin", "cell": "rg_lru"},
} | {name: {"cell": cell} for name, cell in CELLS.items()}


def described(name: str) -> dict[str, str]:
    """Return the description of each weight of a model of two layers by its name in files."""
    section = Model(**{"hidden_size": 8, "embedding_size": 6, "num_layers": 2} | VARIANTS[name])
    model = model_of_shapes(section, 9)
    names = [weight for weight, _, _ in count_parameters(model)]
    return dict(zip(names, describe_weights(model, section.cell.kind), strict=True))


def test_every_weight_has_a_description_of_its_own_in_words():
    for name in VARIANTS:
        descriptions = list(described(name).values())
        assert len(set(descriptions)) == len(descriptions), name
        for description in descriptions:
            assert re.fullmatch(r"[A-Za-z0-9 ,'-]+", description), (name, description)


def test_descriptions_state_layer_recurrence_part_and_number_of_gates():
    lstm = described("lstm")
    assert lstm["embedding.weight"] == "embedding"
    first, second = "recurrence.cells.0.kernel.", "recurrence.cells.1.kernel."
    assert lstm[first + "weight_ih_l0"] == "layer 1, LSTM, input weights, 4 gates"
    assert lstm[second + "bias_hh_l0"] == "layer 2, LSTM, recurrent biases, 4 gates"
    gru = described("gru_reset_before")
    assert gru["recurrence.cells.0.input.weight"] == "layer 1, GRU, input weights, 3 gates"
    assert gru["recurrence.cells.0.recurrent.weight"] == "layer 1, GRU, recurrent weights, 2 gates"
    assert described("elman_tanh")[first + "weight_ih_l0"] == "layer 1, Elman, input weights"
    tied = described("tied")
    assert tied["embedding.weight"] == "embedding, also weights of the projection"
    both = described("both")
    assert both["backward_recurrence.initial.1.0"] == "backward layer 2, initial hidden state"

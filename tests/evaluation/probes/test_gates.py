"""Saturation of gates: against gates computed by hand, and for every cell that has gates."""

import numpy as np
import pytest
import torch
from conftest import small_config, train_all
from small_models import make_model, random_ids, random_records

from charlm.api import load
from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError
from charlm.evaluation.probes.gates import RecordedSigmoids, measure_gates, saturation

GATES = {
    "lstm": ["input", "forget", "output"],
    "gru": ["reset", "update"],
    "min_gru": ["keep", "update"],
    "min_lstm": ["forget", "input"],
    "rg_lru": ["recurrence", "input"],
    "slstm": ["output"],
    "diagonal_gru": ["reset", "update"],
    "diagonal_lstm": ["input", "forget", "output"],
    "hgrn": ["forget", "input"],
    "nested_lstm": [
        f"{level}{gate}" for level in ("", "inner 1 ") for gate in ("input", "forget", "output")
    ],
}


def sharpen(model):
    with torch.no_grad():
        for parameter in model.encoder.recurrence.parameters():
            parameter *= 6
    return model


def test_the_gates_of_an_lstm_are_counted_as_by_hand():
    for mode, ids in (("stream", random_ids(40)), ("records", random_records(8))):
        model = sharpen(make_model(cell="lstm"))
        cell = model.encoder.recurrence.layers[0]
        opened, closed = np.zeros((3, 8)), np.zeros((3, 8))
        for token, state in states_before(model, ids, mode):
            x = model.encoder.embedding(torch.tensor([[token]]))
            sums = (cell.project(x)[0] + cell.recurrent(state[0])).chunk(4, dim=-1)
            gates = torch.sigmoid(torch.stack([sums[0], sums[1], sums[3]]))[:, 0].detach().numpy()
            opened += gates > 0.9
            closed += gates < 0.1
        measured = list(saturation(model, ids, mode=mode))
        assert opened.sum() > 0
        assert closed.sum() > 0
        np.testing.assert_allclose([gate.open for gate in measured], opened / len(ids))
        np.testing.assert_allclose([gate.closed for gate in measured], closed / len(ids))


def states_before(model, ids, mode):
    """Yield each input token with the state of the first layer before it."""
    states = model.initial_states(1)
    for token in [EOS, *ids[:-1].tolist()]:
        if token == EOS and mode == "records":
            states = model.initial_states(1)
        yield token, states[0]
        with torch.no_grad():
            _, states = model.encoder(torch.tensor([[token]]), states)


def test_every_logistic_function_of_a_step_has_a_name():
    variants = [
        *GATES,
        {"kind": "gru", "reset": "before"},
        {"kind": "gru", "reset": "none"},
        {"kind": "lstm", "peepholes": ["input", "output"]},
        {"kind": "lstm", "coupled": True},
        "mogrifier_lstm",
        "elman",
        "bag",
    ]
    for variant in variants:
        model = make_model(cell=variant)
        cell = model.encoder.recurrence.layers[0]
        (state,) = model.initial_states(2)
        with RecordedSigmoids() as recorded:
            cell.step(cell.project(torch.zeros(1, 2, 4))[0], state)
        assert len(recorded.results) == len(cell.gate_names), variant


def test_gates_are_named_in_the_order_of_the_equations():
    for cell, names in GATES.items():
        measured = list(saturation(make_model(cell=cell), random_ids(20), mode="stream"))
        assert [gate.gate for gate in measured] == names, cell


def test_a_network_without_gates_is_refused(text_file, trained, tmp_path):
    train_all(small_config(text_file, "model.cell=elman", "training.steps=1"), tmp_path / "run")
    with pytest.raises(CharlmError, match="elman has no gates"):
        measure_gates(load(tmp_path / "run").trained)
    gates = measure_gates(load(trained).trained)
    assert {gate.layer for gate in gates.gates} == {"layer_0"}
    assert all(0 <= share <= 1 for gate in gates.gates for share in gate.open + gate.closed)

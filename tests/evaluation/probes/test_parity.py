"""Parity: accuracy by length, of a network that computes it and of one that cannot."""

import json

import pytest
import torch
from export.models import random_model

from charlm.api import load
from charlm.cli.main import run as charlm
from charlm.data.builders.table import BUILDERS
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.probes import parity
from charlm.evaluation.probes.parity import measure_parity

ELMAN = {
    "cell": {"kind": "elman", "activation": "relu"},
    "embedding": "one_hot",
    "hidden_size": 2,
}


def counting_network(text: str = "01=\n"):
    """Return an Elman network of two units a, b whose difference a − 2b is the parity.

    a ← relu(a − 2b + bit); b ← relu(a − 2b + bit − 1)
    """
    trained = random_model(ELMAN, text=text)
    cell = trained.model.encoder.recurrence.layers[0]
    ids = {character: trained.tokenizer.encode(character)[0] for character in "01"}
    with torch.no_grad():
        for tensor in trained.model.parameters():
            tensor.zero_()
        cell.input.weight[:, ids["1"]] = 1.0
        cell.recurrent.weight.copy_(torch.tensor([[1.0, -2.0], [1.0, -2.0]]))
        cell.input.bias.copy_(torch.tensor([0.0, -1.0]))
        trained.model.projection.weight[ids["1"]] = torch.tensor([2.0, -4.0])
        trained.model.projection.bias[ids["0"]] = 1.0
    return trained


def test_a_network_that_counts_modulo_two_is_right_at_every_length():
    result = measure_parity(counting_network(), strings=20, longest=100)
    assert result.accuracy == 1.0 and result.count == 160
    assert [row["bits"] for row in result.by_length] == [1, 2, 4, 8, 16, 32, 64, 100]
    assert all(row["accuracy"] == 1.0 and row["count"] == 20 for row in result.by_length)


def test_a_network_that_ignores_a_bit_is_right_about_half_of_the_strings():
    trained = counting_network()
    with torch.no_grad():  # It always says 0.
        trained.model.projection.weight.zero_()
    result = measure_parity(trained, strings=20, longest=8)
    assert [row["accuracy"] for row in result.by_length] == [0.5, 0.5, 0.5, 0.5]


def test_another_seed_draws_other_strings_and_the_same_seed_the_same(monkeypatch):
    drawn = []
    trained = counting_network()
    score = parity.score_pairs
    monkeypatch.setattr(
        parity,
        "score_pairs",
        lambda *given, **named: drawn.append(given[2]) or score(*given, **named),
    )
    for seed in (1, 1, 2):
        measure_parity(trained, strings=10, longest=1, seed=seed)
        measure_parity(trained, strings=10, longest=32, seed=seed)
    assert drawn[:7] == drawn[7:14] and drawn[6] != drawn[20]
    for right, wrong in drawn[6]:
        bits, parity_bit = right.split("=")
        assert bits.count("1") % 2 == int(parity_bit) and wrong == f"{bits}={1 - int(parity_bit)}"


def test_a_wrong_number_and_a_model_of_other_text_are_refused_in_one_line():
    trained = counting_network()
    for name, value in (("strings", 3), ("strings", 0), ("longest", 0), ("longest", 5000)):
        with pytest.raises(OptionError, match=rf"^{name}: must be [^\n]*got {value}[^\n]*$"):
            measure_parity(trained, **{name: value})
    with pytest.raises(CharlmError, match=r"^[^\n]*does not know the characters 0 and 1[^\n]*$"):
        measure_parity(random_model(text="no digits here"), strings=2, longest=2)


def test_the_corpus_has_strings_of_every_length_with_their_parity():
    lines = list(BUILDERS["parity"](strings=400, seed=3, longest=5))
    assert len(lines) == 400 and lines == list(BUILDERS["parity"](strings=400, seed=3, longest=5))
    for line in lines:
        bits, right = line.split("=")
        assert bits.count("1") % 2 == int(right)
    assert {len(line) - 2 for line in lines} == {1, 2, 3, 4, 5}
    for name, value in (("strings", 0), ("longest", 0), ("longest", "9"), ("seed", -1)):
        with pytest.raises(CorpusError, match=f"parity: {name} must be a whole number"):
            BUILDERS["parity"](**{name: value})


def test_the_command_and_python_give_the_same_result(tmp_path, capfd):
    text = tmp_path / "parity.txt"
    text.write_text(
        "".join(f"{line}\n" for line in BUILDERS["parity"](strings=200)), encoding="utf-8"
    )
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    options = ["--config", tmp_path / "empty.yaml", "--set", "model.hidden_size=8", "--steps", 2]
    arguments = ["train", text, *options, "--out", tmp_path / "run"]
    assert charlm([str(argument) for argument in arguments]) == 0, capfd.readouterr().err
    capfd.readouterr()
    command = ["eval", "parity", str(tmp_path / "run"), "--strings", "10", "--longest", "4"]
    assert charlm([*command, "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed == load(tmp_path / "run").parity(strings=10, longest=4).to_json()
    assert charlm(command) == 0
    table = capfd.readouterr().out.splitlines()
    assert table[0].split() == ["bits", "strings", "accuracy"] and len(table) >= 4

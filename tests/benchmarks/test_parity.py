"""The benchmark of parity: which run of a recurrence counts."""

import argparse

from benchmark_modules import load

from charlm.config.load import load_config

parity = load("parity")


def result_of(rate: float, *accuracies: float) -> dict:
    """Return a result with these accuracies on 1, 16 and 64 bits."""
    rows = zip((1, 16, 64), accuracies, strict=True)
    by_length = [{"bits": bits, "accuracy": accuracy} for bits, accuracy in rows]
    return {"learning_rate": rate, "by_length": by_length}


def test_the_best_run_is_chosen_on_the_lengths_of_the_training_text(monkeypatch):
    results = {0.1: result_of(0.1, 0.9, 0.5, 1.0), 0.2: result_of(0.2, 0.9, 0.7, 0.5)}
    monkeypatch.setattr(parity, "measure", lambda cell, rate, seed, options: results[rate])
    options = argparse.Namespace(rates=[0.1, 0.2], seeds=[1, 2])
    assert parity.best_of("lstm", options)["learning_rate"] == 0.2


def test_every_recurrence_is_a_valid_setting_of_the_configuration():
    for cell in parity.CELLS:
        load_config("parity", [f"model.cell={cell}"])

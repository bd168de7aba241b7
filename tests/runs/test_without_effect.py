"""Settings that change nothing in a training are named."""

import pytest
from conftest import small_config

from charlm.data.resolve import resolve
from charlm.model.any_model import make_model
from charlm.runs.without_effect import settings_without_effect

UNSCORED = ["corpus.valid_share=0"]
# A setting without effect and the overrides; None: all of them have an effect.
CASES = [
    ("corpus.split_seed", ["corpus.split_seed=2"]),
    (
        "tokenizer.eos",
        ["tokenizer.eos=none", "tokenizer.level=word", "tokenizer.words=whitespace"],
    ),
    ("model.dropout", ["model.dropout=0.1"]),
    ("model.weight_dropout", ["model.weight_dropout=0.1", "model.cell=min_gru"]),
    ("training.label_smoothing", ["training.label_smoothing=0.1", "model.adaptive_cutoffs=[4]"]),
    ("training.vary_window", ["training.vary_window=true", "corpus.mode=records"]),
    ("training.partial_shuffle", ["training.partial_shuffle=true", "corpus.mode=records"]),
    ("training.restart_windows", ["training.restart_windows=4", "corpus.mode=records"]),
    ("training.average_steps", ["training.average_steps=9"]),
    ("training.trigger_evaluations", ["training.trigger_evaluations=2"]),
    ("training.halvings", ["training.halvings=2"]),
    ("training.beta1", ["training.beta1=0.8", "training.optimizer=rmsprop"]),
    ("training.beta2", ["training.beta2=0.8", "training.optimizer=sgd"]),
    ("training.averaging", ["training.averaging=triggered", "training.evaluations=6"]),
    ("training.averaging", [*UNSCORED, "training.averaging=triggered"]),
    ("training.schedule", [*UNSCORED, "training.schedule=plateau"]),
    ("training.patience", [*UNSCORED, "training.patience=2"]),
    (None, ["corpus.split_seed=2", "corpus.mode=records"]),
    (None, ["tokenizer.eos=none"]),
    (None, ["model.dropout=0.1", "model.num_layers=2", "model.weight_dropout=0.1"]),
    (None, ["model.dropout=0.1", "model.block=griffin", "model.cell=hgrn"]),
    (None, ["training.vary_window=true", "training.label_smoothing=0.1"]),
    (None, ["training.average_steps=9", "training.averaging=exponential"]),
    (None, ["training.averaging=triggered", "training.evaluations=7"]),
    (
        None,
        [
            *("training.averaging=triggered", "training.trigger_evaluations=2"),
            "training.evaluations=4",
        ],
    ),
    (None, [*UNSCORED, "training.averaging=exponential", "training.schedule=constant"]),
    (None, ["training.beta1=0.8", "training.beta2=0.8", "training.optimizer=muon"]),
    (None, ["training.patience=2", "training.schedule=plateau"]),
    (None, ["training.halvings=2", "training.on_divergence=halve"]),
]


@pytest.mark.parametrize(("setting", "overrides"), CASES)
def test_a_setting_that_changes_nothing_is_named(setting, overrides, text_file):
    config = resolve(small_config(text_file, *overrides))
    model = make_model(config.model, 10)
    lines = settings_without_effect(config, model.encoder.recurrence.layers)
    named = [line.partition(": has no effect, because ")[0] for line in lines]
    assert named == ([setting] if setting else [])

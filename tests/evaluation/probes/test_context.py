"""Context length: texts with known answers, and agreement with a model that reads one target."""

import json

import numpy as np
import pytest
import torch
from small_models import CPU, VOCABULARY, make_model, random_ids

from charlm.api import load
from charlm.cli.main import run as charlm
from charlm.config.model import Model
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.probes.context import (
    Context,
    LossAtContext,
    measure_context,
    measure_losses,
)
from charlm.model.language_model import LanguageModel

PERIOD = 7


def train_on(ids: np.ndarray, steps: int) -> LanguageModel:
    """Return a small GRU that has learned a text from random windows of 24 tokens."""
    torch.manual_seed(1)
    model = LanguageModel(Model(cell="gru", hidden_size=24, embedding_size=8), VOCABULARY)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    random = np.random.default_rng(1)
    for _ in range(steps):
        starts = random.integers(0, len(ids) - 25, size=32)
        window = torch.from_numpy(ids[starts + np.arange(25)[:, None]].astype(np.int64))
        logits, _ = model(window[:-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def losses(model: LanguageModel, ids: np.ndarray, contexts, targets: int = 500) -> list[float]:
    measured = measure_losses(model, ids, contexts=contexts, targets=targets, device=CPU)
    return [row.loss_nats for row in measured.contexts]


def test_the_loss_on_independent_tokens_does_not_depend_on_the_context():
    ids = random_ids(4000)
    model = train_on(ids, steps=60)
    curve = losses(model, ids, (2, 5, 10, 20, 50))
    entropy = np.log(VOCABULARY - 2)
    np.testing.assert_allclose(curve, entropy, atol=0.05)


def test_the_loss_on_a_periodic_text_drops_where_the_context_covers_the_period():
    # A run of equal tokens and one other: the place in the run is known from PERIOD tokens on.
    ids = np.tile(np.array([2] * (PERIOD - 1) + [3], dtype=np.uint8), 400)
    model = train_on(ids, steps=150)
    curve = dict(zip(range(1, 15), losses(model, ids, range(1, 15)), strict=True))
    assert curve[PERIOD] < 0.05
    assert curve[PERIOD - 3] > 0.15
    assert max(curve[length] for length in range(PERIOD, 15)) < 0.05


def test_each_loss_is_that_of_a_model_that_starts_before_its_context():
    model, ids = make_model(), random_ids(300)
    for length in (1, 3, 20, 60):
        measured = measure_losses(model, ids, contexts=[length, 100], targets=6, device=CPU)
        places = np.linspace(100, 300 - 6, 1).round().astype(int)[:, None] + np.arange(6)
        shared = next(n for n in (6, 3, 2, 1) if n <= max(1, length // 10))
        expected = []
        for target in places.ravel().tolist():
            first = target - (target - 100) % shared  # First target of the shared reading.
            tokens = torch.from_numpy(ids[first - length : target + 1].astype(np.int64))[:, None]
            with torch.no_grad():
                logits, _ = model(tokens[:-1])
            expected.append(-float(logits[-1, 0].log_softmax(dim=-1)[tokens[-1, 0]]))
        assert measured.contexts[0].loss_nats == pytest.approx(np.mean(expected), rel=1e-5), length


def test_gains_are_differences_of_losses_with_an_error_over_places():
    measured = measure_losses(
        make_model(), random_ids(900), contexts=(10, 2, 2), targets=200, device=CPU
    )
    assert [row.context for row in measured.contexts] == [2, 10]
    first, second = measured.contexts
    assert (first.gain_nats, first.standard_error) == (None, None)
    assert second.gain_nats == pytest.approx(first.loss_nats - second.loss_nats)
    assert second.standard_error is not None
    assert measured.settings == {"targets": 200, "places": 4}


def test_a_gain_that_rounds_to_zero_has_no_minus_sign():
    context = Context([LossAtContext(2, 1.0, -0.00001, 0.0)], settings={})
    assert "+0.0000" in str(context)


def test_a_short_text_leaves_out_long_contexts():
    measured = measure_losses(
        make_model(), random_ids(50), contexts=(5, 25, 26), targets=9, device=CPU
    )
    assert [row.context for row in measured.contexts] == [5, 25]


def test_no_target_of_a_short_text_counts_twice():
    measured = measure_losses(
        make_model(), random_ids(300), contexts=(10, 150), targets=2000, device=CPU
    )
    assert measured.settings == {"targets": 150, "places": 3}


def test_the_loss_of_named_tokens_is_that_of_the_same_positions():
    model, ids = make_model(), random_ids(300)
    (row,) = measure_losses(
        model, ids, contexts=[7], targets=1000, named=[3, 5], device=CPU
    ).contexts
    expected = []
    for position in np.flatnonzero(np.isin(ids, [3, 5])).tolist():
        if position >= 7:
            tokens = torch.from_numpy(ids[position - 7 : position + 1].astype(np.int64))[:, None]
            with torch.no_grad():
                logits, _ = model(tokens[:-1])
            expected.append(-float(logits[-1, 0].log_softmax(dim=-1)[tokens[-1, 0]]))
    assert row.loss_nats == pytest.approx(np.mean(expected), rel=1e-5)


def test_fewer_named_tokens_than_there_are_are_spread_over_the_text():
    measured = measure_losses(
        make_model(), random_ids(3000), contexts=[1], targets=9, named=[3], device=CPU
    )
    assert measured.settings == {"targets": 9, "places": 9}


def test_the_command_measures_named_tokens(trained, capfd):
    arguments = ["eval", "context", str(trained), "--targets", "20", "--at", "o"]
    assert charlm([*arguments, "--json"]) == 0
    settings = json.loads(capfd.readouterr().out)["settings"]
    assert (settings["at"], settings["targets"]) == ("o", 20)
    assert charlm([*arguments, "--at", "ab"]) == 2
    assert "--at: must be a token of the model" in capfd.readouterr().err


def test_what_cannot_be_measured_is_refused(trained, trained_records):
    for options, error in (
        ({"contexts": (0, 5)}, OptionError),
        ({"contexts": ()}, OptionError),
        ({"targets": 0}, OptionError),
        ({"text": "a"}, CorpusError),
        ({"text": "The cat sat on the mat.", "at": "w"}, CorpusError),
        ({"at": "ab"}, OptionError),
    ):
        with pytest.raises(error):
            measure_context(load(trained).trained, **options)
    with pytest.raises(CharlmError, match="records"):
        measure_context(load(trained_records).trained)


def test_a_run_learns_from_its_context(trained):
    context = measure_context(load(trained).trained, contexts=(1, 2, 10), targets=50)
    assert context.contexts[0].loss_nats > context.contexts[-1].loss_nats
    assert context.settings["state"] == "initial before each context"

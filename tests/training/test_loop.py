"""The loop: what it counts, when it ends, what it refuses."""

import itertools
import math

import pytest
import torch
from conftest import small_config

from charlm.data.windows import Position, stream_windows
from charlm.errors import DivergenceError
from charlm.model.language_model import LanguageModel
from charlm.training.devices import Hardware
from charlm.training.loop import TrainingState, train
from charlm.training.objective import LanguageModelObjective
from charlm.training.optimizer import make_optimizer

IDS = torch.randint(2, 9, (400,), generator=torch.Generator().manual_seed(1)).numpy()


def steps_of(*overrides: str, seconds_a_step: float = 1.0):
    torch.manual_seed(1)
    config = small_config("x", *overrides)
    model, state = LanguageModel(config.model, 9), TrainingState()
    ticks = itertools.count(0, seconds_a_step)  # The clock is read before and after each step.
    progress = train(
        LanguageModelObjective(model, config.training, Hardware(torch.device("cpu"))),
        stream_windows(IDS, batch_size=4, window=16, start=Position()),
        make_optimizer(model, config.training),
        config.training,
        state=state,
        clock=lambda: next(ticks),
    )
    return model, state, progress


def test_a_budget_of_steps_takes_so_many():
    _, state, progress = steps_of("training.steps=7")
    assert [round(fact.fraction_done * 7) for fact in progress] == [1, 2, 3, 4, 5, 6, 7]
    assert (state.step, state.tokens) == (7, 7 * 4 * 16)


def test_a_budget_of_epochs_reads_the_text_so_often():
    _, state, progress = steps_of("training.epochs=2.5")
    assert len(list(progress)) == 15  # Six windows of 16 in each stream of 100.
    assert state.epochs == pytest.approx(2.5)


def test_a_budget_of_minutes_counts_the_seconds_inside_steps_alone():
    _, state, progress = steps_of("training.minutes=0.1", seconds_a_step=2.0)
    assert len(list(progress)) == 3
    assert state.seconds == 6.0


def test_the_loss_falls():
    _, _, progress = steps_of("training.steps=40", "training.learning_rate=0.02")
    losses = [float(fact.loss) for fact in progress]
    assert losses[0] == pytest.approx(math.log(9), abs=0.3)
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    model, _, progress = steps_of("training.steps=9")
    next(progress)
    with torch.no_grad():
        model.projection.weight[3, 3] = math.inf
    kept = [tensor.clone() for tensor in model.parameters()]
    with pytest.raises(
        DivergenceError, match=r"step 2: the loss is (nan|inf).*lower training.learning_rate"
    ):
        next(progress)
    for tensor, before in zip(model.parameters(), kept, strict=True):
        torch.testing.assert_close(tensor, before)


def test_the_gradient_is_told_as_it_was_before_it_was_clipped():
    model, _, progress = steps_of("training.steps=1", "training.clipnorm=1.0e-3")
    (fact,) = progress
    assert float(fact.clipping.norm) > 0.1
    squares = sum(tensor.grad.square().sum().item() for tensor in model.parameters())
    assert squares**0.5 == pytest.approx(1e-3, rel=1e-3)
    assert bool(fact.clipping.by_norm) and fact.clipping.by_value is None


def test_state_is_carried_from_window_to_window_and_cut_from_the_gradient():
    _, state, progress = steps_of("training.steps=9")
    next(progress)
    carried = state.states
    assert carried is not None and all(
        not part.requires_grad and part.abs().sum() > 0 for part in carried[0]
    )


def test_twenty_steps_of_a_tiny_model_end_at_the_loss_they_always_did():
    _, _, progress = steps_of(
        "training.steps=20", "training.learning_rate=0.01", "training.weight_decay=0.01"
    )
    *_, last = progress
    assert float(last.loss) == pytest.approx(GOLDEN_LOSS, abs=2e-4), (
        "the arithmetic of training changed: update GOLDEN_LOSS only if a change of initial values, objective, "
        "clipping, optimizer or schedule was the purpose of your commit, and say so there"
    )


GOLDEN_LOSS = 1.9547

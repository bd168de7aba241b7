"""The training loop: counts, budgets, divergence, and any objective."""

import itertools
import math

import pytest
import torch
from conftest import small_config

from charlm.data.windows import Position, Window, stream_windows
from charlm.errors import DivergenceError
from charlm.model.language_model import LanguageModel
from charlm.training.devices import Hardware
from charlm.training.loop import TrainingState, train
from charlm.training.objective import LanguageModelObjective, ObjectiveValue
from charlm.training.optimizer import make_optimizer

IDS = torch.randint(2, 9, (400,), generator=torch.Generator().manual_seed(1)).numpy()


def steps_of(*overrides: str, seconds_per_step: float = 1.0):
    """Return a model, the state of its training, and the steps to iterate over."""
    torch.manual_seed(1)
    config = small_config("x", *overrides)
    model, state = LanguageModel(config.model, 9), TrainingState()
    ticks = itertools.count(0, seconds_per_step)  # The clock is read before and after each step.
    progress = train(
        LanguageModelObjective(model, config.training, Hardware(torch.device("cpu"))),
        stream_windows(IDS, batch_size=4, window=16, start=Position()),
        make_optimizer(model, config.training),
        config.training,
        state=state,
        clock=lambda: next(ticks),
    )
    return model, state, progress


def test_a_budget_of_steps_is_a_number_of_steps():
    _, state, progress = steps_of("training.steps=7")
    assert [round(step.fraction_done * 7) for step in progress] == [1, 2, 3, 4, 5, 6, 7]
    assert (state.step, state.tokens) == (7, 7 * 4 * 16)


def test_a_budget_of_epochs_is_a_number_of_passes_over_the_text():
    _, state, progress = steps_of("training.epochs=2.5")
    assert len(list(progress)) == 15  # Six windows of 16 in each stream of 100.
    assert state.epochs == pytest.approx(2.5)


def test_a_budget_of_minutes_counts_only_the_seconds_within_steps():
    _, state, progress = steps_of("training.minutes=0.1", seconds_per_step=2.0)
    assert len(list(progress)) == 3
    assert state.seconds == 6.0


def test_the_loss_falls():
    _, _, progress = steps_of("training.steps=40", "training.learning_rate=0.02")
    losses = [float(step.loss) for step in progress]
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


def test_the_reported_norm_is_that_before_clipping():
    model, _, progress = steps_of("training.steps=1", "training.clipnorm=1.0e-3")
    (step,) = progress
    assert float(step.clipping.norm) > 0.1
    squares = sum(tensor.grad.square().sum().item() for tensor in model.parameters())
    assert squares**0.5 == pytest.approx(1e-3, rel=1e-3)
    assert bool(step.clipping.by_norm) and step.clipping.by_value is None


def test_the_state_is_carried_between_windows_without_a_gradient():
    _, state, progress = steps_of("training.steps=9")
    next(progress)
    carried = state.states
    assert carried is not None and all(
        not part.requires_grad and part.abs().sum() > 0 for part in carried[0]
    )


def test_the_loss_after_twenty_steps_of_a_tiny_model_has_not_changed():
    _, _, progress = steps_of(
        "training.steps=20", "training.learning_rate=0.01", "training.weight_decay=0.01"
    )
    *_, last = progress
    assert float(last.loss) == pytest.approx(GOLDEN_LOSS, abs=2e-4), (
        "the arithmetic of training changed: update GOLDEN_LOSS only if your commit is meant to "
        "change initial values, objective, clipping, optimizer or schedule, and say so there"
    )


GOLDEN_LOSS = 1.9547


class ClassifierObjective(torch.nn.Module):
    """A classifier of columns by the mean of their embeddings: one target per column, no state."""

    num_networks = 1
    uses_every_parameter = True
    hardware = Hardware(torch.device("cpu"))

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2))

    def initial_states(self, batch_size):
        return ()

    def forward(self, inputs, targets, states, batch_size, num_valid_columns):
        embedding, linear = self.model
        logits = linear(embedding(inputs).mean(dim=0))
        nats = torch.nn.functional.cross_entropy(logits, targets[0], reduction="sum")
        return ObjectiveValue(objective=nats / batch_size, nats=nats.detach(), states=())


def test_the_loop_trains_another_objective_than_a_language_model():
    torch.manual_seed(1)
    objective = ClassifierObjective()
    config = small_config(
        "x", "training.steps=30", "training.accumulation=2", "training.learning_rate=0.5"
    )
    inputs = torch.from_numpy(IDS[:80].reshape(5, 16))
    targets = (inputs.float().mean(dim=0) > 5).long()[None]
    window = Window(
        inputs=inputs,
        targets=targets,
        resets_state=True,
        next=Position(),
        epochs=1.0,
        global_batch_size=16,
    )
    state = TrainingState()
    steps = train(
        objective,
        itertools.repeat(window),
        torch.optim.SGD(objective.model.parameters(), lr=1.0),
        config.training,
        state=state,
        clock=lambda: 0.0,
    )
    losses = [float(step.loss) for step in steps]
    assert losses[0] == pytest.approx(math.log(2), abs=0.4)
    assert losses[-1] < 0.8 * losses[0]
    assert state.tokens == 30 * 16

"""The training loop: counts, budgets, divergence, and any objective."""

import itertools
import math
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import small_config

from charlm.data.tokenizer import EOS
from charlm.data.windows.streams import StreamOptions, stream_windows
from charlm.data.windows.window import Position, Window
from charlm.errors import DivergenceError
from charlm.model.language_model import LanguageModel
from charlm.training import loop
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


def test_a_window_is_copied_to_a_gpu_from_pinned_memory():
    """Else the copy would wait for the steps before it."""
    gpu, pageable = torch.device("cuda"), Mock()
    loop._copy_to(gpu, pageable)
    pageable.pin_memory.return_value.to.assert_called_once_with(gpu, non_blocking=True)


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


def restart_steps(window: Window, states, *, accumulation: int, learned: bool = False):
    """Return the gradient and the states after one step from `states`."""
    torch.manual_seed(1)
    overrides = ["training.steps=1", f"training.accumulation={accumulation}"]
    overrides += ["model.initial_state=learned"] if learned else []
    config = small_config("x", *overrides, "model.hidden_size=[5, 4]")
    model = LanguageModel(config.model, 9)
    for recurrence in model.encoder.recurrences:
        for tensor in recurrence.initial.parameters():
            torch.nn.init.constant_(tensor, 0.3)
    state = TrainingState(states=states)
    steps = train(
        LanguageModelObjective(model, config.training, Hardware(torch.device("cpu"))),
        itertools.repeat(window),
        make_optimizer(model, config.training),
        config.training,
        state=state,
        clock=lambda: 0.0,
    )
    next(steps)
    return [tensor.grad for tensor in model.parameters()], state.states


def test_columns_that_restart_begin_with_the_initial_state_and_the_others_are_carried():
    ids = torch.from_numpy(IDS[: 4 * 9].reshape(9, 4))
    fields = {"resets_state": False, "next": Position(), "epochs": 0.0, "global_batch_size": 4}
    window = Window(inputs=ids[:-1], targets=ids[1:], **fields)
    carried = tuple((torch.randn(4, n), torch.randn(4, n)) for n in (5, 4))
    mask = torch.tensor([False, True, False, True])
    restarting = replace(window, restarts=mask)
    zeroed = tuple(tuple(part * ~mask[:, None] for part in layer) for layer in carried)
    expected_gradient, expected = restart_steps(window, zeroed, accumulation=1)
    for accumulation in (1, 3):
        gradient, states = restart_steps(restarting, carried, accumulation=accumulation)
        torch.testing.assert_close(gradient, expected_gradient)
        torch.testing.assert_close(states, expected)


def test_a_learned_initial_state_is_trained_where_columns_restart():
    ids = torch.from_numpy(IDS[: 4 * 9].reshape(9, 4))
    fields = {"resets_state": False, "next": Position(), "epochs": 0.0, "global_batch_size": 4}
    window = Window(inputs=ids[:-1], targets=ids[1:], **fields)
    start = replace(window, resets_state=True)
    expected, _ = restart_steps(start, None, accumulation=1, learned=True)
    carried = tuple((torch.randn(4, n), torch.randn(4, n)) for n in (5, 4))
    restarting = replace(window, restarts=torch.ones(4, dtype=torch.bool))
    for accumulation in (1, 2):
        found, _ = restart_steps(restarting, carried, accumulation=accumulation, learned=True)
        torch.testing.assert_close(found, expected)


def probability_of_the_first_token(restart_windows: int) -> tuple[float, float]:
    """Train on documents that all begin with id 8; return its probability at two beginnings.

    They are the beginning of a text and the position after <EOS> inside a text.
    """
    random = np.random.default_rng(1)
    documents = [[8, *random.integers(2, 8, random.integers(9, 30)), EOS] for _ in range(200)]
    ids = np.concatenate(documents)
    torch.manual_seed(1)
    overrides = ["training.steps=250", "training.learning_rate=0.02", "training.window=8"]
    config = small_config("x", *overrides)
    model = LanguageModel(config.model, 9)
    options = StreamOptions(restart_windows=restart_windows)
    windows = stream_windows(ids, batch_size=8, window=8, start=Position(), options=options)
    steps = train(
        LanguageModelObjective(model, config.training, Hardware(torch.device("cpu"))),
        windows,
        make_optimizer(model, config.training),
        config.training,
        state=TrainingState(),
        clock=lambda: 0.0,
    )
    assert len(list(steps)) == 250
    inputs = torch.from_numpy(np.concatenate([[EOS], ids[:400]]))[:, None]
    with torch.no_grad():
        logits, _ = model.eval()(inputs)
    probability = logits.softmax(-1)[:, 0, 8][inputs[:, 0] == EOS]
    return float(probability[0]), float(probability[1:].mean())


def test_the_beginnings_of_documents_are_learned_from_the_initial_state():
    # Without restarts they are 0.895 and 0.984.
    at_the_beginning, inside = probability_of_the_first_token(16)
    assert inside > 0.97
    assert at_the_beginning > inside - 0.03


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

    def forward(self, inputs, targets, states, batch_size):
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

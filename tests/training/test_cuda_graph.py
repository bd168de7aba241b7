"""A step as one CUDA graph: everything except the graph, which only a GPU has (test_cuda.py)."""

from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import small_config
from torch.utils._python_dispatch import TorchDispatchMode

from charlm.data.windows.streams import StreamOptions, stream_windows
from charlm.data.windows.window import Position
from charlm.model.language_model import LanguageModel
from charlm.training import cuda_graph, loop
from charlm.training.devices import Hardware
from charlm.training.loop import TrainingState, train
from charlm.training.objective import LanguageModelObjective
from charlm.training.optimizer import make_optimizer
from charlm.training.process_group import SINGLE_PROCESS
from charlm.training.step import Batch, StepResult, forward_backward

IDS = np.random.default_rng(1).integers(2, 9, size=900)
IDS[::23] = 0  # Documents, so that streams restart.
CPU = torch.device("cpu")
# Operations whose result Python reads, so that a GPU must finish first.
SYNCHRONIZING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "unique_dim",
    "_unique2",
    "equal",
    "lift_fresh",  # A tensor made of Python numbers, which is copied to the GPU.
}


def make_objective(config, device=CPU):
    torch.manual_seed(1)
    model = LanguageModel(config.model, 9)
    return LanguageModelObjective(model, config.training, Hardware(device))


def weights_and_losses(config):
    """Train on the CPU; return the weights at the end and the loss of each step."""
    objective = make_objective(config)
    windows = stream_windows(
        IDS,
        batch_size=4,
        window=16,
        start=Position(),
        options=StreamOptions(
            vary=config.training.vary_window,
            shuffle=config.training.partial_shuffle,
            restart_windows=2,
        ),
    )
    optimizer = make_optimizer(objective.model, config.training)
    steps = train(
        objective,
        windows,
        optimizer,
        config.training,
        state=TrainingState(),
        clock=lambda: 0.0,
    )
    losses = [float(step.loss) for step in list(steps)]
    return [tensor.detach() for tensor in objective.model.parameters()], losses


def make_recorder(tensors, recorded):
    """Return a recorder that, as a GPU's does, changes nothing until the launch."""

    def record(work, device):
        before = [(tensor, tensor.clone()) for tensor in tensors()]
        generator = torch.get_rng_state()
        result = work()
        torch.set_rng_state(generator)
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        recorded.append(result)

        def launch():
            new = work()
            result.loss.copy_(new.loss)
            for name, value in vars(new.clipping).items():
                if value is not None:
                    getattr(result.clipping, name).copy_(value)

        return result, launch

    return record


@pytest.fixture
def recorded(monkeypatch) -> list[StepResult]:
    """Let `train` record its steps on the CPU; return the results of the recorded steps."""
    results: list[StepResult] = []

    def make_step(compute, optimizer, device):
        def tensors():
            yield from (tensor for group in optimizer.param_groups for tensor in group["params"])
            yield from (value for state in optimizer.state.values() for value in state.values())

        return cuda_graph.CudaGraphStep(
            compute, optimizer, device, record=make_recorder(tensors, results)
        )

    monkeypatch.setattr(loop, "CudaGraphStep", make_step)
    monkeypatch.setattr(loop, "can_use_cuda_graph", lambda *_: True)
    return results


def test_a_graph_is_recorded_on_the_device_of_the_model(monkeypatch):
    """On a stream of another GPU, a graph would be empty, and its launches would train nothing."""
    streams, devices = [], []

    def record(graph, stream=None):
        streams.append(stream)
        return nullcontext()

    def select(device):
        devices.append(device)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Mock)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "device", select)
    device = torch.device("cuda:1")
    result, _ = cuda_graph.record_graph(lambda: "result", device)
    assert (result, streams, devices) == ("result", ["stream of cuda:1"], [device])


@pytest.mark.parametrize(
    ("steps", "overrides"),
    [
        (
            12,
            [
                "training.clipvalue=0.1",
                "model.cell={kind: lstm, peepholes: [output]}",
                "model.layer_norm=true",
            ],
        ),
        (
            40,
            [
                "training.optimizer=adam",
                "training.vary_window=true",
                "training.partial_shuffle=true",
            ],
        ),
        (
            12,
            [
                "training.optimizer=muon",
                "training.accumulation=2",
                "model.embedding_dropout=0.2",
                "model.output_dropout=0.2",
                "model.weight_dropout=0.2",
                "model.word_dropout=0.1",
            ],
        ),
        (
            12,
            [
                "model.cell=gru",
                "model.num_layers=2",
                "model.dropout=0.2",
                "training.averaging=exponential",
            ],
        ),
    ],
    ids=["adamw", "adam", "muon", "gru"],
)
def test_recorded_steps_equal_eager_steps(steps, overrides, recorded, monkeypatch):
    config = small_config("x", f"training.steps={steps}", "training.warmup_steps=5", *overrides)
    weights, losses = weights_and_losses(config)
    assert recorded, "no step was recorded"
    monkeypatch.undo()
    expected_weights, expected_losses = weights_and_losses(config)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for tensor, expected in zip(weights, expected_weights, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)


def test_a_shape_is_recorded_when_it_comes_the_fourth_time_and_at_most_sixteen_are(
    recorded, monkeypatch
):
    weights_and_losses(small_config("x", "training.steps=3"))
    assert not recorded
    weights_and_losses(small_config("x", "training.steps=4"))
    assert len(recorded) == 1
    assert cuda_graph._MAX_GRAPHS == 16
    monkeypatch.setattr(cuda_graph, "_MAX_GRAPHS", 2)
    weights_and_losses(small_config("x", "training.steps=100", "training.vary_window=true"))
    assert len(recorded) == 3


class RefuseSynchronization(TorchDispatchMode):
    """Fails at an operation that waits for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexes_by_mask = name in ("index", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        assert name not in SYNCHRONIZING and not indexes_by_mask, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


OPTIONS = [
    [
        "model.cell=lstm",
        "model.word_dropout=0.1",
        "model.embedding_dropout=0.1",
        "model.output_dropout=0.1",
    ],
    [
        "model.dropout_mask=window",
        "model.output_dropout=0.1",
        "model.weight_dropout=0.1",
        "training.label_smoothing=0.1",
    ],
    [
        "training.activation_regularization=2",
        "training.temporal_regularization=1",
        "training.clipvalue=0.1",
    ],
    ["model.mixture=3", "training.clipnorm=null", "training.optimizer=adam"],
    ["model.skip=sum", "model.num_layers=2", "model.dropout=0.1"],
    ["model.tied=true", "model.direction=both", "training.accumulation=2"],
    ["model.cell=gru", "training.optimizer=muon"],
    ["model.cell=elman"],
    ["model.cell={kind: lstm, coupled: true, peepholes: [output]}"],
    ["model.cell={kind: lstm, capped: true}"],
    ["model.cell=min_lstm"],
    ["model.cell=slstm", "model.ngrams=3", "model.ngram_dropout=0.1"],
    ["model.cell=rg_lru", "model.block=griffin", "model.num_layers=2", "model.dropout=0.1"],
    ["model.cell=hgrn", "model.num_layers=2"],
    ["model.cell=diagonal_lstm", "model.ngrams=2", "training.optimizer=muon"],
]


def make_batch(objective):
    ids = torch.from_numpy(IDS[: 16 * 8].reshape(16, 8))
    return Batch(
        inputs=ids,
        targets=ids.roll(-1, 0),
        tokens=torch.tensor(ids.numel()),
        states=objective.initial_states(8),
        global_batch_size=8 // objective.num_networks,
        restarts=torch.arange(8) % 2 == 1,
    )


def compute(objective, batch, *, loss_scale=1.0):
    return forward_backward(
        objective, objective.section, batch, group=SINGLE_PROCESS, loss_scale=loss_scale
    )


def test_a_step_that_can_be_recorded_never_waits_for_the_device():
    for overrides in OPTIONS:
        config = small_config("x", *overrides)
        objective = make_objective(config)
        assert objective.uses_every_parameter, overrides
        optimizer = make_optimizer(objective.model, config.training)
        for _ in range(2):
            batch = make_batch(objective)
            try:
                with RefuseSynchronization():
                    compute(objective, batch, loss_scale=2.0)
                    optimizer.step()
            except AssertionError as error:
                raise AssertionError(f"{overrides}: {error}") from None


def test_an_operation_that_waits_for_the_device_is_recognized():
    objective = make_objective(small_config("x", "model.adaptive_cutoffs=[4]"))
    with RefuseSynchronization(), pytest.raises(AssertionError, match="waits for the device"):
        compute(objective, make_batch(objective))


def test_a_step_that_waits_for_the_device_is_not_recorded():
    cuda = torch.device("cuda")
    for overrides, device, can_be_recorded in (
        ([], cuda, True),
        ([], CPU, False),
        (["training.cuda_graph=false"], cuda, False),
        (["model.adaptive_cutoffs=[4]"], cuda, False),
        (["model.initial_state=learned"], cuda, False),
        (["training.optimizer=sgd"], cuda, False),
    ):
        config = small_config("x", "training.cuda_graph=true", *overrides)
        objective = make_objective(config, device)
        found = loop.can_use_cuda_graph(objective, config.training)
        assert found == can_be_recorded, (overrides, device)


def test_every_result_of_a_step_is_on_the_device_of_the_model():
    for overrides in OPTIONS[:6]:
        objective = make_objective(small_config("x", *overrides))
        batch = make_batch(objective)
        objective.model.to("meta")
        result = compute(
            objective,
            replace(
                batch,
                inputs=batch.inputs.to("meta"),
                targets=batch.targets.to("meta"),
                tokens=batch.tokens.to("meta"),
                states=objective.initial_states(8),
                restarts=batch.restarts.to("meta"),
            ),
            loss_scale=2.0,
        )
        values = [result.loss, *vars(result.clipping).values()]
        devices = {value.device.type for value in values if value is not None}
        assert devices == {"meta"}, overrides


def test_a_scaled_objective_has_the_same_gradient():
    gradients = []
    for loss_scale in (1.0, 64.0):
        objective = make_objective(small_config("x"))
        compute(objective, make_batch(objective), loss_scale=loss_scale)
        gradients.append([tensor.grad for tensor in objective.model.parameters()])
    for plain, scaled in zip(*gradients, strict=True):
        assert torch.equal(plain, scaled)


def test_only_a_gpu_in_bf16_scales_the_objective_by_a_power_of_two_of_at_least_the_batch_size():
    cuda = torch.device("cuda")
    in_bf16 = Hardware(cuda, torch.bfloat16)
    assert [in_bf16.loss_scale(size) for size in (1, 2, 5, 64)] == [1, 2, 8, 64]
    assert Hardware(cuda, torch.float32).loss_scale(64) == 1
    assert Hardware(CPU, torch.bfloat16).loss_scale(64) == 1

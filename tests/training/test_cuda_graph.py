"""A step as one CUDA graph: all but the graph itself, which only a GPU has (see test_cuda.py)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small_config
from torch.utils._python_dispatch import TorchDispatchMode

from charlm.data.windows import Position, stream_windows
from charlm.model.language_model import LanguageModel
from charlm.training import cuda_graph as captured
from charlm.training import devices as hardware
from charlm.training import loop
from charlm.training.loop import TrainingState, train
from charlm.training.objective import Objective
from charlm.training.optimizer import make_optimizer
from charlm.training.process_group import SINGLE_PROCESS

IDS = np.random.default_rng(1).integers(2, 9, size=900)
CPU = torch.device("cpu")
WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "unique_dim",
    "_unique2",
    "equal",
}


def model_and_optimizer(config):
    torch.manual_seed(1)
    model = LanguageModel(config.model, 9)
    return model, make_optimizer(model, config.training)


def weights_after(config, **options):
    model, optimizer = model_and_optimizer(config)
    windows = stream_windows(
        IDS,
        batch_size=4,
        window=16,
        start=Position(),
        vary=config.training.vary_window,
        shuffle=config.training.partial_shuffle,
    )
    steps = list(
        train(
            model,
            windows,
            optimizer,
            config.training,
            state=TrainingState(),
            device=CPU,
            precision=torch.float32,
            clock=lambda: 0.0,
            **options,
        )
    )
    return [tensor.detach() for tensor in model.parameters()], [float(step.loss) for step in steps]


def recorder(tensors, records):
    """Return a recorder that, as a GPU's does, leaves everything as it was until the launch."""

    def record(work):
        kept = [(tensor, tensor.clone()) for tensor in tensors()]
        generator = torch.get_rng_state()
        result = work()
        torch.set_rng_state(generator)
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        records.append(result)

        def launch():
            again = work()
            result.loss.copy_(again.loss)
            for name, value in vars(again.clipping).items():
                if value is not None:
                    getattr(result.clipping, name).copy_(value)

        return result, launch

    return record


@pytest.fixture
def capturing(monkeypatch):
    """Let `train` capture its steps on the CPU; yield what was recorded."""
    records: list[object] = []
    made = captured.CapturedStep

    def make(descend, optimizer, device):
        def tensors():
            yield from (tensor for group in optimizer.param_groups for tensor in group["params"])
            yield from (value for state in optimizer.state.values() for value in state.values())

        return made(descend, optimizer, device, record=recorder(tensors, records))

    monkeypatch.setattr(loop, "CapturedStep", make)
    monkeypatch.setattr(loop, "_can_be_captured", lambda *_: True)
    return records


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.optimizer=adamw"],
        ["training.optimizer=adam", "training.clipvalue=0.1"],
        ["training.optimizer=muon", "model.embedding_dropout=0.2", "model.output_dropout=0.2"],
        ["model.weight_dropout=0.2", "model.word_dropout=0.1", "training.accumulation=2"],
        [
            "model.cell=gru",
            "model.num_layers=2",
            "model.dropout=0.2",
            "training.averaging=exponential",
        ],
        ["model.cell={kind: lstm, peepholes: [output]}", "model.layer_norm=true"],
        ["training.vary_window=true", "training.partial_shuffle=true"],
    ],
)
def test_captured_steps_are_the_steps_that_are_not(overrides, capturing, monkeypatch):
    config = small_config("x", "training.steps=40", "training.warmup_steps=5", *overrides)
    weights, losses = weights_after(config)
    assert capturing, "nothing was captured"
    monkeypatch.undo()
    expected_weights, expected_losses = weights_after(config)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for tensor, expected in zip(weights, expected_weights, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)


def test_a_shape_is_captured_when_it_comes_the_fourth_time_and_at_most_sixteen_are(
    capturing, monkeypatch
):
    config = small_config("x", "training.steps=3")
    weights_after(config)
    assert not capturing
    weights_after(small_config("x", "training.steps=4"))
    assert len(capturing) == 1
    monkeypatch.setattr(captured, "_SHAPES", 2)
    weights_after(small_config("x", "training.steps=400", "training.vary_window=true"))
    assert len(capturing) == 3


class NeverWaits(TorchDispatchMode):
    """Refuses what a GPU's answer must be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        assert name not in WAITS and not masks, f"{func} waits for the device"
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
]


@pytest.mark.parametrize("overrides", OPTIONS)
def test_nothing_that_can_be_captured_waits_for_the_device(overrides):
    config = small_config("x", *overrides)
    model, optimizer = model_and_optimizer(config)
    objective = Objective(model, config.training, device=CPU, precision=torch.float32)
    assert objective.uses_every_parameter
    batch = a_batch(model)
    for _ in range(2):
        with NeverWaits():
            loop._descend(objective, model, config.training, batch, group=SINGLE_PROCESS, scale=2.0)
            optimizer.step()


def test_what_waits_for_the_device_is_not_captured():
    for overrides in (
        ["model.adaptive_cutoffs=[4]"],
        ["model.initial_state=learned"],
        ["training.optimizer=sgd"],
    ):
        config = small_config("x", "training.cuda_graph=true", *overrides)
        model, _ = model_and_optimizer(config)
        objective = Objective(model, config.training, device=CPU, precision=torch.float32)
        assert not loop._can_be_captured(objective, config.training, torch.device("cuda"))
    config = small_config("x", "training.cuda_graph=true")
    objective = Objective(
        model_and_optimizer(config)[0], config.training, device=CPU, precision=torch.float32
    )
    assert loop._can_be_captured(objective, config.training, torch.device("cuda"))
    assert not loop._can_be_captured(objective, config.training, CPU)


def test_the_rule_that_finds_what_waits_finds_it():
    config = small_config("x", "model.adaptive_cutoffs=[4]")
    model, _ = model_and_optimizer(config)
    objective = Objective(model, config.training, device=CPU, precision=torch.float32)
    with NeverWaits(), pytest.raises(AssertionError, match="waits for the device"):
        loop._descend(
            objective, model, config.training, a_batch(model), group=SINGLE_PROCESS, scale=1.0
        )


@pytest.mark.parametrize("overrides", OPTIONS[:6])
def test_all_that_a_step_computes_is_on_one_device(overrides):
    config = small_config("x", *overrides)
    model = LanguageModel(config.model, 9).to("meta")
    objective = Objective(model, config.training, device=CPU, precision=torch.float32)
    batch = a_batch(model)
    on_meta = replace(
        batch,
        inputs=batch.inputs.to("meta"),
        targets=batch.targets.to("meta"),
        tokens=batch.tokens.to("meta"),
    )
    descent = loop._descend(
        objective, model, config.training, on_meta, group=SINGLE_PROCESS, scale=2.0
    )
    told = [
        descent.loss,
        *(value for value in vars(descent.clipping).values() if value is not None),
    ]
    assert {tensor.device.type for tensor in told} == {"meta"}


def test_a_scaled_objective_has_the_same_gradient():
    config = small_config("x", "model.output_dropout=0")
    gradients = []
    for scale in (1.0, 64.0):
        model, _ = model_and_optimizer(config)
        objective = Objective(model, config.training, device=CPU, precision=torch.float32)
        loop._descend(
            objective, model, config.training, a_batch(model), group=SINGLE_PROCESS, scale=scale
        )
        gradients.append([tensor.grad for tensor in model.parameters()])
    for plain, scaled in zip(*gradients, strict=True):
        assert torch.equal(plain, scaled)


def test_only_a_gpu_in_half_precision_scales_and_by_a_power_of_two_no_less_than_the_batch():
    cuda = torch.device("cuda")
    assert [hardware.loss_scale(cuda, torch.bfloat16, columns) for columns in (1, 2, 5, 64)] == [
        1,
        2,
        8,
        64,
    ]
    assert (
        hardware.loss_scale(cuda, torch.float32, 64)
        == hardware.loss_scale(CPU, torch.bfloat16, 64)
        == 1
    )


def a_batch(model):
    ids = torch.from_numpy(IDS[: 16 * 8].reshape(16, 8))
    return captured.Batch(
        ids, ids.roll(-1, 0), torch.tensor(ids.numel()), None, 8 // len(model.encoder.recurrences)
    )

"""Agreement of a GPU with a CPU, and of CUDA graphs with eager steps. Skipped without a GPU."""

import itertools

import pytest
import torch
from conftest import small_config, train_all

import charlm
from charlm.runs import prepare, session
from charlm.runs.experiment import training_windows
from charlm.training.loop import Progress, train
from charlm.training.objective import LanguageModelObjective

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def losses_of(config, folder):
    """Train to the end; return the loss of each step."""
    events = session.run(prepare.begin(config, folder))
    return [float(event.loss) for event in events if isinstance(event, Progress)]


def test_a_run_has_the_same_score_on_a_gpu_and_on_a_cpu(text_file, tmp_path):
    for trained_on in ("cuda", "cpu"):
        train_all(small_config(text_file, f"training.device={trained_on}"), tmp_path / trained_on)
        scores = [
            charlm.load(tmp_path / trained_on, device=device).perplexity().loss_nats
            for device in ("cuda", "cpu")
        ]
        assert scores[0] == pytest.approx(scores[1], rel=1e-4), trained_on


def test_the_first_steps_on_a_gpu_have_the_losses_of_a_cpu(text_file, tmp_path):
    losses = [
        losses_of(small_config(text_file, f"training.device={device}"), tmp_path / device)
        for device in ("cuda", "cpu")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    ("cell", "precision"),
    [
        ("lstm", "fp32"),
        ("lstm", "bf16"),
        ("gru", "bf16"),
        ("elman", "bf16"),
        ("{kind: elman, activation: sigmoid}", "bf16"),
        ("slstm", "bf16"),
        ("min_gru", "bf16"),
    ],
)
def test_the_loss_falls_for_every_cell_and_precision(cell, precision, text_file, tmp_path):
    config = small_config(
        text_file,
        "training.device=cuda",
        f"training.precision={precision}",
        f"model.cell={cell}",
        "training.steps=60",
        "training.learning_rate=1e-2",
    )
    losses = losses_of(config, tmp_path / "run")
    assert losses[-1] < losses[0] - 0.5


def test_a_run_is_resumed_on_another_device(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file, "training.device=cuda"), tmp_path / "run")
    for _ in session.run(experiment, stop=lambda: experiment.state.step >= 5):
        pass
    experiment = prepare.resume(tmp_path / "run", device="cpu")
    *_, finished = session.run(experiment)
    assert finished.experiment.state.step == 12


@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_a_learned_initial_state_is_trained_on_a_gpu(cell, text_file, tmp_path):
    config = small_config(
        text_file,
        "training.device=cuda",
        "training.precision=fp32",
        f"model.cell={cell}",
        "model.initial_state=learned",
    )
    losses = losses_of(config, tmp_path / "run")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "override",
    ["training.optimizer=adamw", "training.optimizer=muon", "model.ngrams=3", "model.dropout=0.1"],
)
@pytest.mark.parametrize("graph", ["false", "true"])
def test_steps_between_two_checks_do_not_wait_for_the_gpu(override, graph, text_file, tmp_path):
    config = small_config(
        text_file, "training.device=cuda", f"training.cuda_graph={graph}", override
    )
    experiment = prepare.begin(config, tmp_path / "run")
    steps = train(
        LanguageModelObjective(experiment.model, config.training, experiment.hardware),
        training_windows(experiment),
        experiment.optimizer,
        config.training,
        state=experiment.state,
        clock=lambda: 0.0,
    )
    list(itertools.islice(steps, 6))  # The first steps choose kernels, and record the graph.
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert experiment.state.step == 12


@pytest.mark.parametrize(
    ("override", "precision"),
    [
        ("training.optimizer=adamw", "fp32"),
        ("training.optimizer=adamw", "bf16"),
        ("training.optimizer=muon", "bf16"),
        ("training.vary_window=true", "bf16"),
        ("model.cell=gru", "bf16"),
        ("model.cell=slstm", "bf16"),
        ("model.cell=min_gru", "bf16"),
        ("model.ngrams=3", "bf16"),
    ],
)
def test_steps_in_a_cuda_graph_have_the_losses_of_eager_steps(
    override, precision, text_file, tmp_path
):
    losses = []
    for graph in ("false", "true"):
        config = small_config(
            text_file,
            "training.device=cuda",
            f"training.precision={precision}",
            "training.steps=40",
            f"training.cuda_graph={graph}",
            override,
        )
        losses.append(losses_of(config, tmp_path / graph))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_steps_in_a_cuda_graph_train_on_the_second_gpu_too(text_file, tmp_path):
    config = small_config(
        text_file,
        "training.device=cuda:1",
        "training.cuda_graph=true",
        "training.steps=60",
        "training.learning_rate=1e-2",
    )
    losses = losses_of(config, tmp_path / "run")
    assert losses[-1] < losses[0] - 0.5


def test_each_step_in_a_cuda_graph_drops_other_units(text_file, tmp_path):
    config = small_config(
        text_file,
        "training.device=cuda",
        "training.cuda_graph=true",
        "model.output_dropout=0.5",
        "training.learning_rate=1e-30",
        "training.window=16",
        "training.steps=8",
    )
    experiment = prepare.begin(config, tmp_path / "run")
    window = next(training_windows(experiment))
    objective = LanguageModelObjective(experiment.model, config.training, experiment.hardware)
    steps = train(
        objective,
        itertools.repeat(window),
        experiment.optimizer,
        config.training,
        state=experiment.state,
        clock=lambda: 0.0,
    )
    losses = [float(step.loss) for step in steps]
    assert len(set(losses)) == len(losses)


def test_a_run_in_cuda_graphs_continues_after_a_stop(text_file, tmp_path):
    config = small_config(
        text_file, "training.device=cuda", "training.cuda_graph=true", "training.steps=24"
    )
    for _ in session.run(prepare.begin(config, tmp_path / "whole")):
        pass
    experiment = prepare.begin(config, tmp_path / "stopped")
    for _ in session.run(experiment, stop=lambda: experiment.state.step >= 12):
        pass
    for _ in session.run(prepare.resume(tmp_path / "stopped")):
        pass
    losses = [charlm.load(tmp_path / name).perplexity().loss_nats for name in ("whole", "stopped")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)

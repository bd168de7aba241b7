"""What must hold between a GPU and a CPU. Skipped where there is no GPU."""

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


def test_a_run_trained_on_a_gpu_scores_the_same_on_a_cpu_and_the_other_way_round(
    text_file, tmp_path
):
    for trained_on in ("cuda", "cpu"):
        train_all(small_config(text_file, f"training.device={trained_on}"), tmp_path / trained_on)
        scores = [
            charlm.load(tmp_path / trained_on, device=device).perplexity().loss_nats
            for device in ("cuda", "cpu")
        ]
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_the_first_steps_on_a_gpu_are_those_of_a_cpu(text_file, tmp_path):
    losses = []
    for device in ("cuda", "cpu"):
        experiment = prepare.begin(
            small_config(text_file, f"training.device={device}"), tmp_path / device
        )
        losses.append(
            [float(event.loss) for event in session.run(experiment) if isinstance(event, Progress)]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm", "{kind: elman, activation: sigmoid}"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls_in_every_precision(cell, precision, text_file, tmp_path):
    overrides = [
        "training.device=cuda",
        f"training.precision={precision}",
        f"model.cell={cell}",
        "training.steps=60",
        "training.learning_rate=1e-2",
    ]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    losses = [float(event.loss) for event in session.run(experiment) if isinstance(event, Progress)]
    assert losses[-1] < losses[0] - 0.5


def test_a_run_goes_on_on_another_device(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file, "training.device=cuda"), tmp_path / "run")
    for _ in session.run(experiment, stop=lambda: experiment.state.step >= 5):
        pass
    experiment = prepare.resume(tmp_path / "run", device="cpu")
    *_, finished = session.run(experiment)
    assert finished.experiment.state.step == 12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "overrides",
    [[], ["training.optimizer=muon"], ["training.vary_window=true"], ["model.cell=gru"]],
)
def test_steps_in_a_graph_are_the_steps_that_are_not(overrides, precision, text_file, tmp_path):
    losses = []
    for graph in ("false", "true"):
        config = small_config(
            text_file,
            "training.device=cuda",
            f"training.precision={precision}",
            "training.steps=40",
            f"training.cuda_graph={graph}",
            *overrides,
        )
        experiment = prepare.begin(config, tmp_path / graph)
        losses.append(
            [float(event.loss) for event in session.run(experiment) if isinstance(event, Progress)]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_each_step_in_a_graph_drops_other_units(text_file, tmp_path):
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
    first = next(training_windows(experiment))
    losses = [
        float(step.loss)
        for step in train(
            LanguageModelObjective(
                experiment.model,
                config.training,
                experiment.hardware,
            ),
            itertools.repeat(first),
            experiment.optimizer,
            config.training,
            state=experiment.state,
            clock=lambda: 0.0,
        )
    ]
    assert len(set(losses)) == len(losses)


def test_a_run_in_graphs_goes_on_where_it_stopped(text_file, tmp_path):
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

"""Averages of the weights: by hand, their trigger, and where they are used."""

import json
import shutil

import pytest
import torch
from conftest import small_config, train_all, unseal

from charlm.config.training import Training
from charlm.errors import CheckpointError
from charlm.model.language_model import named_weights
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint, save_checkpoint
from charlm.runs.experiment import Evaluated
from charlm.training.averaging import Average
from charlm.training.loop import Progress
from charlm.training.loss import Score


class Weight(torch.nn.Module):
    """A model of one trained weight and one frozen weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def put(self, value):
        with torch.no_grad():
            self.weight.fill_(value)


def make_average(**options):
    model = Weight()
    return model, Average(model, Training(**options))


def means_of(model, average, values):
    """Return the mean after each of some values of the weight."""
    means = []
    for value in values:
        model.put(value)
        average.update()
        means.append(average.weights["weight"].item())
    return means


def test_the_exponential_mean_forgets_the_first_weights_quickly():
    model, average = make_average(averaging="exponential", average_steps=100)
    # Decays with 1, 2 and 3 weights in the mean: 2/11, 3/12, 4/13.
    second = (2 * 1.0 + 9 * 4.0) / 11
    third = (3 * second + 9 * 2.0) / 12
    fourth = (4 * third + 9 * 6.0) / 13
    assert means_of(model, average, [1.0, 4.0, 2.0, 6.0]) == pytest.approx(
        [1.0, second, third, fourth]
    )


def test_the_decay_of_the_exponential_mean_is_at_most_one_minus_one_over_average_steps():
    model, average = make_average(averaging="exponential", average_steps=2)
    means = means_of(model, average, [1.0] * 8 + [3.0, 5.0])  # (1 + 8) / (10 + 8) is 1/2.
    assert means == pytest.approx([1.0] * 8 + [2.0, 3.5])


def test_the_triggered_mean_is_the_mean_of_all_weights_since_the_trigger():
    model, average = make_average(averaging="triggered", trigger_evaluations=1)
    for value in (100.0, 200.0):
        model.put(value)
        average.update()
    for loss in (1.0, 2.0):
        average.record_validation_loss(loss)
    assert average.weights == {}
    assert means_of(model, average, [1.0, 2.0, 6.0, 3.0]) == pytest.approx([1.0, 1.5, 3.0, 3.0])


def test_averaging_begins_when_the_validation_loss_rises_above_the_lowest_earlier_one():
    for trigger_evaluations, losses, expected in (
        (1, [3, 2, 1, 2], 4),
        (1, [3, 4], 2),
        (1, [3, 3, 3], None),
        (2, [3, 4, 3.5], 3),
        (2, [3, 2, 2.5, 2.1], 4),
        (2, [3, 2, 2.5, 1.9, 2.0, 1.8], None),
        (3, [1, 5, 5, 5], 4),
        (3, [1, 5, 5], None),
        (3, [4, 3, 2, 5, 1], 4),
        (5, [5, 4, 3, 2, 1, 0.9, 0.8, 3.5, 1], 8),
    ):
        _, average = make_average(averaging="triggered", trigger_evaluations=trigger_evaluations)
        beginning = None
        for number, loss in enumerate(losses, start=1):
            average.record_validation_loss(loss)
            average.update()
            beginning = beginning or (number if average.weights else None)
        assert beginning == expected, (trigger_evaluations, losses)


def test_only_the_triggered_mean_depends_on_the_validation_loss():
    for averaging, weights in (("none", []), ("exponential", ["weight"])):
        _, average = make_average(averaging=averaging, trigger_evaluations=1)
        for loss in (1.0, 2.0, 3.0):
            average.record_validation_loss(loss)
        assert average.weights == {}, averaging
        average.update()
        assert list(average.weights) == weights, averaging


def test_the_mean_is_in_the_parameters_of_the_model_only_while_it_is_applied():
    model, average = make_average(averaging="exponential", average_steps=2)
    means = means_of(model, average, [1.0, 5.0])
    parameter = model.weight
    with average.applied():
        assert model.weight is parameter
        assert parameter.item() == means[-1] != 5.0
        assert not model.frozen.any()
    assert parameter.item() == 5.0


def test_the_trained_weights_are_restored_after_an_error():
    model, average = make_average(averaging="exponential")
    means_of(model, average, [1.0, 5.0])
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert model.weight.item() == 5.0


def test_without_a_mean_applying_it_changes_nothing():
    model, average = make_average(averaging="none")
    average.update()
    with average.applied():
        model.put(3.0)
    assert model.weight.item() == 3.0


# Validation losses, one every second step: with trigger_evaluations 2 the mean begins after the
# fourth evaluation.
LOSSES = [3.0, 2.0, 2.5, 2.1, 1.0, 1.5]
TRIGGERED = [
    "training.averaging=triggered",
    "training.trigger_evaluations=2",
    "training.evaluations=6",
]


def weights_of(model):
    return {name: tensor.detach().double().clone() for name, tensor in named_weights(model)}


def assert_close(weights, expected):
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=0, atol=1e-6)


def mean_of(snapshots):
    return {
        name: torch.stack([weights[name] for weights in snapshots]).mean(dim=0)
        for name in snapshots[0]
    }


def test_the_mean_is_scored_reported_and_saved_as_best_and_training_continues_from_the_weights(
    text_file, tmp_path, monkeypatch
):
    scored, reported, trained = [], [], []

    def validate(experiment, **options):
        scored.append(weights_of(experiment.model))
        return Score(LOSSES[len(scored) - 1] * 10, 10, 0)

    monkeypatch.setattr(session, "validate", validate)
    experiment = prepare.begin(small_config(text_file, *TRIGGERED), tmp_path / "run")
    for event in session.run(experiment):
        if isinstance(event, Progress):
            trained.append(weights_of(experiment.model))
        elif isinstance(event, Evaluated):
            reported.append(weights_of(experiment.model))
    for number, step in enumerate((2, 4, 6, 8)):  # Before and at the trigger.
        assert_close(scored[number], trained[step - 1])
    assert_close(scored[4], mean_of(trained[8:10]))
    assert_close(scored[5], mean_of(trained[8:12]))
    for score, report in zip(scored, reported, strict=True):
        assert_close(score, report)
    assert_close(weights_of(experiment.model), trained[-1])
    best, last = (load_checkpoint(tmp_path / "run" / which) for which in ("best", "last"))
    assert best.state["step"] == 10
    assert_close(best.tensors["weights"], mean_of(trained[8:10]))
    assert_close(last.tensors["weights"], mean_of(trained[8:12]))
    assert_close(
        {name: last.tensors["training"][f"raw.{name}"] for name in trained[-1]}, trained[-1]
    )


def test_averaging_does_not_change_the_training(text_file, tmp_path):
    plain = train_all(small_config(text_file), tmp_path / "plain")
    other = train_all(small_config(text_file, "training.averaging=exponential"), tmp_path / "other")
    for tensor, same in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(tensor, same)
    weights = [
        load_checkpoint(tmp_path / run / "last").tensors["weights"] for run in ("plain", "other")
    ]
    assert any((tensor != weights[1][name]).any() for name, tensor in weights[0].items())


def test_a_checkpoint_between_evaluations_holds_the_mean_and_the_trained_weights(
    text_file, tmp_path
):
    experiment = prepare.begin(
        small_config(text_file, "training.averaging=exponential"), tmp_path / "run"
    )
    for _ in session.run(experiment, stop=lambda: experiment.state.step >= 4):
        pass
    saved = load_checkpoint(tmp_path / "run" / "last").tensors
    assert_close(
        saved["weights"],
        {name: tensor.double() for name, tensor in experiment.average.weights.items()},
    )
    assert_close(
        {name: saved["training"][f"raw.{name}"] for name in saved["weights"]},
        weights_of(experiment.model),
    )


def test_without_averaging_a_checkpoint_holds_the_weights_once(trained):
    names = load_checkpoint(trained / "last").tensors["training"]
    assert not [name for name in names if name.startswith("raw.")]


def test_a_checkpoint_of_format_1_without_a_mean_is_resumed(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "last" / "state.json"
    state = json.loads(path.read_text())
    del state["average"], state["stalls"]
    path.write_text(json.dumps(state | {"format": 1}))
    unseal(tmp_path / "run")
    resumed = prepare.resume(tmp_path / "run")
    assert (resumed.state.step, resumed.state.stalls, resumed.average.weights) == (60, 0, {})


def test_a_checkpoint_with_a_mean_but_without_trained_weights_is_refused(text_file, tmp_path):
    train_all(small_config(text_file, "training.averaging=exponential"), tmp_path / "run")
    folder = tmp_path / "run" / "last"
    saved = load_checkpoint(folder)
    del saved.tensors["training"]["raw.projection.bias"]
    save_checkpoint(folder, saved.state, saved.tensors)
    with pytest.raises(CheckpointError, match=r"cannot be resumed: 'raw\.projection\.bias'"):
        prepare.resume(tmp_path / "run")

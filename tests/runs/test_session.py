"""A whole training: resuming equals never having stopped, a seed repeats to the bit, the best is kept."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_config, train_all

from charlm.data.windows import scoring_windows, stream_windows
from charlm.errors import CheckpointError, CorpusError, DivergenceError
from charlm.model.language_model import named_weights
from charlm.runs import prepare, save_schedule, session, snapshot
from charlm.runs.checkpoint import load_checkpoint, save_checkpoint
from charlm.runs.experiment import Evaluated, training_windows
from charlm.training.loop import Progress
from charlm.training.loss import Score, score

VARIANTS = {
    "stream": [],
    "stream-dropout-two-layers": [
        "model.num_layers=2",
        "model.dropout=0.3",
        "model.output_dropout=0.2",
    ],
    "stream-over-epochs": ["training.batch_size=16", "training.window=40", "training.steps=30"],
    "records": ["corpus.mode=records"],
    "records-gru-sgd": ["corpus.mode=records", "model.cell=gru", "training.optimizer=sgd"],
    "epochs-bf16": ["training.epochs=0.2", "training.precision=bf16"],
    "nadam": ["training.optimizer=nadam"],
    "muon": ["training.optimizer=muon", "model.num_layers=2"],
    "exponential-average": ["training.averaging=exponential", "training.average_steps=3"],
    "varied-shuffled": [
        "training.vary_window=true",
        "training.partial_shuffle=true",
        "training.batch_size=16",
        "training.window=40",
        "training.steps=30",
    ],
    "every-dropout-by-window": [
        "model.num_layers=2",
        "model.word_dropout=0.1",
        "model.embedding_dropout=0.2",
        "model.dropout=0.3",
        "model.output_dropout=0.4",
        "model.weight_dropout=0.3",
        "model.dropout_mask=window",
    ],
    "dropout-with-every-method": [
        "model.weight_dropout=0.3",
        "model.word_dropout=0.1",
        "model.output_dropout=0.4",
        "model.tied=true",
        "model.mixture=3",
        "model.cell={kind: lstm, capped: true}",
        "training.optimizer=muon",
        "training.averaging=exponential",
        "training.label_smoothing=0.1",
        "training.activation_regularization=2",
        "training.temporal_regularization=1",
        "training.vary_window=true",
        "training.partial_shuffle=true",
    ],
    "adaptive-words": [
        "tokenizer.level=word",
        "model.adaptive_cutoffs=[8]",
        "training.batch_size=2",
    ],
}
every_variant = pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
# Dropout draws from torch's global generator, which the test below disturbs: it has a test of its own.
PLAIN = {name: overrides for name, overrides in VARIANTS.items() if "dropout" not in name}
without_dropout = pytest.mark.parametrize("overrides", PLAIN.values(), ids=PLAIN)


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last").tensors["weights"]


def last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return weights, the optimizer's state, the recurrence's and, beside a mean, the raw weights."""
    tensors = load_checkpoint(folder / "last").tensors
    training = {
        name: tensor
        for name, tensor in tensors["training"].items()
        if not name.startswith("generator.")
    }
    return tensors["weights"] | training


def assert_same_weights(one: Path, other: Path) -> None:
    tensors = last_tensors(other)
    assert last_tensors(one).keys() == tensors.keys()
    for name, tensor in last_tensors(one).items():
        assert torch.equal(tensor, tensors[name]), name


def text_for(overrides, text_file, records_file):
    return records_file if "corpus.mode=records" in overrides else text_file


@without_dropout
def test_resuming_equals_never_having_stopped(overrides, text_file, records_file, tmp_path):
    config = small_config(text_for(overrides, text_file, records_file), *overrides)
    train_all(config, tmp_path / "whole")
    experiment = prepare.begin(config, tmp_path / "parts")
    for stop_at in (3, 7, 10**9):
        for _ in session.run(
            experiment, stop=lambda state=experiment.state, at=stop_at: state.step >= at
        ):
            torch.rand(3)  # What goes on between steps must not matter to the resumed run.
        torch.manual_seed(99)
        experiment = prepare.resume(tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


# Validation's loss at each step: it stalls at the third, fourth and sixth, and the triggered mean begins at the third.
LOSSES = [5.0, 4.0, 4.5, 4.2, 3.0, 3.5, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]


@pytest.mark.parametrize("stops", [(2, 8), (3, 4)])
@pytest.mark.parametrize(
    "overrides", [["training.schedule=plateau"], ["training.averaging=triggered"]], ids=str
)
def test_resuming_keeps_what_validation_has_set_going(
    overrides, stops, text_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        session, "validate", lambda experiment: Score(LOSSES[experiment.state.step - 1] * 10, 10, 0)
    )
    config = small_config(
        text_file, *overrides, "training.evaluations=12", "training.trigger_evaluations=1"
    )
    train_all(config, tmp_path / "whole")
    experiment = prepare.begin(config, tmp_path / "parts")
    for stop_at in (*stops, 10**9):
        for _ in session.run(
            experiment, stop=lambda state=experiment.state, at=stop_at: state.step >= at
        ):
            pass
        experiment = prepare.resume(tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert experiment.state.stalls == 3
    assert bool(experiment.average.weights) == ("training.averaging=triggered" in overrides)


def test_a_plateau_s_rate_falls_with_the_step_after_a_stall(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(
        session, "validate", lambda experiment: Score(LOSSES[experiment.state.step - 1] * 10, 10, 0)
    )
    overrides = [
        "training.schedule=plateau",
        "training.evaluations=12",
        "training.learning_rate=1.0e-2",
    ]
    experiment = prepare.begin(
        small_config(text_file, *overrides, "training.warmup_steps=0"), tmp_path / "run"
    )
    rates = [
        event.learning_rate for event in session.run(experiment) if isinstance(event, Progress)
    ]
    assert rates == pytest.approx([1e-2] * 3 + [1e-2 / 4] + [1e-2 / 16] * 2 + [1e-2 / 64] * 6)


def test_training_reads_as_the_configuration_says(text_file, tmp_path):
    overrides = ["training.vary_window=true", "training.partial_shuffle=true", "training.seed=5"]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    options = {"batch_size": 4, "window": 16, "seed": 5, "vary": True, "shuffle": True}
    wanted = stream_windows(
        experiment.tokens["train"].ids, start=experiment.state.position, **options
    )
    for window, other in itertools.islice(
        zip(training_windows(experiment), wanted, strict=True), 40
    ):
        assert torch.equal(window.inputs, other.inputs)


def test_resuming_takes_up_dropout_s_generator(text_file, tmp_path):
    config = small_config(text_file, *VARIANTS["stream-dropout-two-layers"])
    train_all(config, tmp_path / "whole")
    experiment = prepare.begin(config, tmp_path / "parts")
    for _ in session.run(experiment, stop=lambda: experiment.state.step >= 5):
        pass
    torch.manual_seed(99)
    for _ in session.run(prepare.resume(tmp_path / "parts")):
        pass
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@every_variant
def test_a_seed_repeats_to_the_bit(overrides, text_file, records_file, tmp_path):
    config = small_config(text_for(overrides, text_file, records_file), *overrides)
    train_all(config, tmp_path / "one")
    train_all(config, tmp_path / "two")
    assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_another_seed_gives_other_weights(text_file, tmp_path):
    train_all(small_config(text_file), tmp_path / "one")
    train_all(small_config(text_file, "training.seed=2"), tmp_path / "two")
    weights = last_weights(tmp_path / "two")
    assert any(
        (tensor != weights[name]).any() for name, tensor in last_weights(tmp_path / "one").items()
    )


def test_a_larger_budget_goes_on_with_a_finished_run(text_file, tmp_path):
    train_all(small_config(text_file), tmp_path / "run")
    experiment = prepare.resume(tmp_path / "run", budget={"steps": 20})
    for _ in session.run(experiment):
        pass
    assert experiment.state.step == 20
    assert [
        json.loads(line)["step"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ] == [
        6,
        12,
        20,
    ]


def test_metrics_after_the_checkpoint_are_dropped_on_resuming(text_file, tmp_path):
    train_all(small_config(text_file), tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14}\n{"step": 1')
    prepare.resume(tmp_path / "run")
    assert [
        json.loads(line)["step"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ] == [
        6,
        12,
    ]


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("overrides", "by_norm", "by_value"),
    [
        (["training.clipnorm=1.0e-3"], 1.0, None),
        (["training.clipnorm=1.0e+6"], 0.0, None),
        (["training.clipnorm=null", "training.clipvalue=1.0e-4"], None, 1.0),
        (["training.clipnorm=1.0e+6", "training.clipvalue=1.0e+6"], 0.0, 0.0),
    ],
)
def test_metrics_tell_the_share_of_steps_that_each_limit_clipped(
    overrides, by_norm, by_value, text_file, tmp_path
):
    train_all(small_config(text_file, *overrides), tmp_path / "run")
    for line in metrics_of(tmp_path / "run"):
        assert line["clipped_share"] == by_norm
        assert line["clipped_by_value_share"] == by_value


def test_metrics_tell_the_gradient_of_the_steps_since_the_line_before(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file, "model.num_layers=2"), tmp_path / "run")
    events = [event for event in session.run(experiment) if isinstance(event, Progress | Evaluated)]
    norms = [float(event.clipping.norm) for event in events if isinstance(event, Progress)]
    first, second = metrics_of(tmp_path / "run")
    for line, told in ((first, norms[:6]), (second, norms[6:])):
        assert line["gradient_norm"] == pytest.approx(sum(told) / 6)
        assert line["gradient_norm_max"] == pytest.approx(max(told))
        assert list(line["gradient_norms"]) == ["embedding", "layer_0", "layer_1", "projection"]
        squares = sum(norm**2 for norm in line["gradient_norms"].values())
        assert squares == pytest.approx(sum(norm**2 for norm in told) / 6)


def test_the_gradient_of_each_group_is_the_root_mean_square_over_steps(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file, "training.evaluations=1"), tmp_path / "run")
    norms = [
        event.clipping.norms for event in session.run(experiment) if isinstance(event, Progress)
    ]
    names = [name for name, _ in named_weights(experiment.model)]
    embedding = torch.stack(norms)[:, names.index("embedding.weight")]
    (line,) = metrics_of(tmp_path / "run")
    assert line["gradient_norms"]["embedding"] == pytest.approx(
        embedding.square().mean().sqrt().item()
    )


def test_a_text_that_has_changed_is_told_on_resuming(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A text that will change. " * 60)
    train_all(small_config(path), tmp_path / "run")
    path.write_text("A text that has changed. " * 60)
    with pytest.raises(CheckpointError, match="has changed since"):
        prepare.resume(tmp_path / "run")


def test_best_keeps_the_weights_of_the_lowest_validation_loss(text_file, tmp_path, monkeypatch):
    scores = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr(session, "validate", lambda experiment: Score(next(scores) * 10, 10, 0))
    experiment = prepare.begin(small_config(text_file, "training.evaluations=3"), tmp_path / "run")
    evaluated = [event for event in session.run(experiment) if isinstance(event, Evaluated)]
    assert [event.is_best for event in evaluated] == [True, True, False]
    assert load_checkpoint(tmp_path / "run" / "best").state["step"] == 8
    assert load_checkpoint(tmp_path / "run" / "last").state["step"] == 12


def test_patience_stops_after_so_many_evaluations_without_a_new_best(
    text_file, tmp_path, monkeypatch
):
    scores = iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(session, "validate", lambda experiment: Score(next(scores) * 10, 10, 0))
    config = small_config(text_file, "training.evaluations=4", "training.patience=2")
    *_, finished = session.run(prepare.begin(config, tmp_path / "run"))
    assert finished.reason == "patience"
    assert finished.experiment.state.step == 9


def test_a_divergence_keeps_the_last_good_checkpoint(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with pytest.raises(DivergenceError):
        for event in session.run(experiment):
            if isinstance(event, Evaluated):
                with torch.no_grad():
                    experiment.model.projection.bias[0] = float("nan")
    saved = load_checkpoint(tmp_path / "run" / "last")
    assert saved.state["step"] == 6
    assert all(tensor.isfinite().all() for tensor in saved.tensors["weights"].values())


def test_a_text_without_validation_split_is_trained_all_the_same(text_file, tmp_path):
    experiment = train_all(small_config(text_file, "corpus.valid_share=0"), tmp_path / "run")
    assert "valid" not in experiment.tokens
    assert load_checkpoint(tmp_path / "run" / "best").state["step"] == 12


def test_a_text_too_small_for_its_window_leaves_no_folder_behind(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("too small")
    with pytest.raises(CorpusError, match=r"too small.*lower training.batch_size"):
        prepare.begin(small_config(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_vocabulary_is_learnt_from_the_training_split_alone(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcd " * 200 + "Z" * 100)
    experiment = prepare.begin(small_config(path), tmp_path / "run")
    assert experiment.tokenizer.find_unknown("Z") == ["Z"]
    assert experiment.tokens["valid"].counts.unknown > 0


def test_validation_in_parallel_streams_is_within_a_thousandth_of_the_exact_score(
    text_file, tmp_path
):
    experiment = train_all(
        small_config(text_file, "training.steps=150", "training.learning_rate=2e-2"),
        tmp_path / "run",
    )
    ids = np.concatenate([experiment.tokens["train"].ids, experiment.tokens["valid"].ids])
    settings = {"device": torch.device("cpu"), "precision": torch.float32}
    exact = score(experiment.model, scoring_windows(ids), **settings)
    parallel = score(
        experiment.model, scoring_windows(ids, streams=len(ids) // 1024, warm_up=256), **settings
    )
    assert parallel.tokens == exact.tokens == len(ids)
    assert parallel.nats != exact.nats
    assert abs(parallel.loss_nats - exact.loss_nats) < 0.001


def test_the_corpus_facts_stand_in_the_run_folder(trained):
    facts = json.loads((trained / "corpus.json").read_text())
    assert sum(facts["train_token_counts"]) == facts["parts"]["train"]["tokens"]


class Clock:
    """A clock that goes on by a second at each look, and at one of them jumps."""

    def __init__(self, jump_at: int, by: float) -> None:
        self.looks, self.jump_at, self.by = 0, jump_at, by

    def __call__(self) -> float:
        self.looks += 1
        return self.looks + self.by * (self.looks >= self.jump_at)


@pytest.mark.parametrize("by", [-1e9, -3.0])
@pytest.mark.parametrize("jump_at", [11, 12])
def test_a_clock_that_goes_back_neither_ends_a_budget_of_minutes_nor_lengthens_it_for_ever(
    by, jump_at, text_file, tmp_path
):
    ended = []
    for name, clock in (("steady", Clock(0, 0.0)), ("jumping", Clock(jump_at, by))):
        experiment = prepare.begin(small_config(text_file, "training.minutes=0.2"), tmp_path / name)
        seconds = [
            event.state.seconds
            for event in session.run(experiment, clock=clock)
            if isinstance(event, Progress)
        ]
        assert seconds == sorted(seconds) and seconds[0] >= 0
        ended.append(len(seconds))
    assert ended[0] <= ended[1] <= ended[0] + 2  # The step in which it jumped has no length.


def test_saves_go_on_after_the_clock_went_back(text_file, tmp_path):
    experiment = prepare.begin(
        small_config(text_file, "checkpoint.save_seconds=3", "training.evaluations=1"),
        tmp_path / "run",
    )
    saved = []
    for event in session.run(experiment, clock=Clock(12, -1e9)):
        if isinstance(event, Progress):
            saved.append(load_checkpoint(tmp_path / "run" / "last").state["step"])
    assert max(b - a for a, b in itertools.pairwise(saved)) <= 2
    assert saved[-1] >= 9


def saves_of(text_file, folder, monkeypatch, *overrides, seconds_a_save):
    """Return what was saved when in a training with slow saves, and their share of its time; a step is seconds long."""
    now, saves, write = 0.0, [], save_checkpoint

    def slow(place, state, tensors, **options):
        nonlocal now
        now += seconds_a_save
        saves.append((place.name, state["step"]))
        write(place, state, tensors, **options)

    def clock():
        nonlocal now
        now += 1.0
        return now

    experiment = prepare.begin(
        small_config(text_file, "checkpoint.save_share=0.03", *overrides), folder
    )
    for module in (snapshot, save_schedule):
        monkeypatch.setattr(module, "save_checkpoint", slow)
    for _ in session.run(experiment, clock=clock):
        pass
    return saves, sum(seconds_a_save for _ in saves) / experiment.state.seconds


def test_saves_take_no_more_than_their_share_of_the_time(text_file, tmp_path, monkeypatch):
    changes = ["training.steps=150", "training.evaluations=10", "checkpoint.save_seconds=1e-9"]
    saves, share = saves_of(text_file, tmp_path / "run", monkeypatch, *changes, seconds_a_save=2.0)
    assert 0.01 < share < 0.06  # The save at the end, of two checkpoints, is made in any case.
    assert saves[-1] == ("last", 150)


def test_the_best_that_waits_to_be_saved_is_saved_as_it_was(text_file, tmp_path, monkeypatch):
    scores = iter([2.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr(session, "validate", lambda experiment: Score(next(scores) * 10, 10, 0))
    saves, _ = saves_of(
        text_file, tmp_path / "run", monkeypatch, "training.evaluations=4", seconds_a_save=1e3
    )
    assert saves == [("best", 3), ("last", 3), ("best", 6), ("last", 12)]
    monkeypatch.undo()
    six = prepare.begin(small_config(text_file, "training.evaluations=4"), tmp_path / "six")
    for _ in session.run(six, stop=lambda: six.state.step >= 6):
        pass
    best = load_checkpoint(tmp_path / "run" / "best")
    assert (best.state["step"], best.state["best_loss_nats"]) == (6, 1.0)
    assert (
        best.state["files"]["weights"]
        == load_checkpoint(tmp_path / "six" / "last").state["files"]["weights"]
    )


@pytest.mark.parametrize("how", ["left", "diverged"])
def test_the_best_that_waits_is_saved_when_training_is_left_or_diverges(how, text_file, tmp_path):
    config = small_config(text_file, "checkpoint.save_share=1.0e-9")
    experiment = prepare.begin(config, tmp_path / "run")
    events = session.run(experiment)
    for event in events:
        if isinstance(event, Evaluated):
            break
    assert not (tmp_path / "run" / "best").exists()
    if how == "left":
        events.close()
    else:
        with torch.no_grad():
            experiment.model.projection.bias[0] = float("nan")
        with pytest.raises(DivergenceError):
            next(events)
    assert load_checkpoint(tmp_path / "run" / "best").state["step"] == 6


def test_a_training_killed_before_its_first_evaluation_goes_on_from_the_beginning(
    text_file, tmp_path
):
    config = small_config(text_file, *VARIANTS["stream-dropout-two-layers"])
    train_all(config, tmp_path / "whole")
    events = session.run(prepare.begin(config, tmp_path / "run"))
    for _ in range(4):
        next(events)
    events.close()
    torch.manual_seed(99)
    experiment = prepare.resume(tmp_path / "run")
    assert experiment.state.step == 0
    for _ in session.run(experiment):
        pass
    assert_same_weights(tmp_path / "whole", tmp_path / "run")

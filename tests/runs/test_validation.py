"""Validation during training: the whole split, or a part of it where the time is short."""

import itertools
import json

import pytest
from conftest import small_config
from trainings import finish, metrics_of, stop_at

from charlm.runs import prepare, session, validation
from charlm.runs.experiment import Experiment, Notice
from charlm.runs.validation import EvaluationStopped, _score_part, validate


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr("charlm.data.windows.scoring._SCORING_TOKENS", 64)
    monkeypatch.setattr("charlm.runs.validation._MIN_TOKENS_SCORED", 100)


def run_slowly(experiment: Experiment) -> list[str]:
    """Train with a clock that advances by a second per call; return the notices."""
    seconds = itertools.count()
    events = session.run(experiment, clock=lambda: float(next(seconds)))
    return [event.message for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize(
    ("size", "expected"), [(500, []), (499, ["499 tokens; with fewer than 500"]), (0, [])]
)
def test_a_validation_part_that_is_too_small_to_choose_by_is_named(size, expected, tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("ab" * 500, encoding="utf-8")  # <EOS> is a token too.
    config = small_config(path, f"corpus.valid_share={max(0, size - 1) / 1000}")
    experiment = prepare.begin(config, tmp_path / "run")
    experiment.lock.release()
    found = [line for line in experiment.notices if "the validation part has" in line]
    assert [line.split("has ")[1].split(", it can")[0] for line in found] == expected


@pytest.mark.parametrize(("mode", "minutes"), [("stream", 1.5), ("records", 0.5)])
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_evaluations_that_are_too_long_for_the_budget_score_the_same_part_each_time(
    mode, minutes, direction, text_file, records_file, tmp_path, monkeypatch
):
    parts = []

    def score_part(*arguments):
        parts.append(scored := _score_part(*arguments))
        return scored

    monkeypatch.setattr(validation, "_score_part", score_part)
    text = records_file if mode == "records" else text_file
    settings = [f"corpus.mode={mode}", f"model.direction={direction}", "corpus.valid_share=0.5"]
    config = small_config(text, *settings, f"training.minutes={minutes}")
    experiment = prepare.begin(config, tmp_path / "run")
    (notice,) = [line for line in run_slowly(experiment) if "of the split is scored" in line]
    measured, *later = [scored.inputs for scored in parts]
    assert max(later) <= 1.2 * measured
    first, second = metrics_of(tmp_path / "run")
    assert 0.05 < first["validation_share"] < 0.6
    assert second["validation_share"] == first["validation_share"]
    assert f"{first['validation_share']:.2%} of the split is scored during training" in notice
    experiment.state.validation_part = 1
    whole = validate(experiment, stop=lambda: False, clock=lambda: 0.0)
    counts = experiment.tokens["valid"].counts
    assert whole.tokens == counts.tokens
    assert second["loss_nats"] == pytest.approx(whole.loss_nats, rel=0.1)
    expected = whole.bits_per(counts.characters)
    assert second["bits_per_character"] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("kind", ["classify", "tag", "translate"])
def test_records_of_a_task_are_scored_for_as_long_as_the_first_evaluation_was(
    kind, tmp_path, monkeypatch
):
    """Their predictions are fewer than the tokens that are read for them."""
    monkeypatch.setattr("charlm.runs.validation._MIN_TOKENS_SCORED", 10)
    target = {"classify": "ab", "tag": "ab" * 9, "translate": "a"}[kind]
    names = ["".join("abcdefgh"[n >> 3 * digit & 7] for digit in range(6)) * 3 for n in range(1200)]
    path = tmp_path / "pairs.txt"
    pairs = [f"{name}\t{target[n % 2 :] + target[: n % 2]}\n" for n, name in enumerate(names)]
    path.write_text("".join(pairs), encoding="utf-8")
    settings = [f"task.kind={kind}", "corpus.valid_share=0.8", "training.minutes=0.8"]
    if kind == "tag":
        settings.append("model.direction=both")
    experiment = prepare.begin(small_config(path, *settings), tmp_path / "run")
    remedy = f"; charlm eval task {tmp_path / 'run'} scores all of it"
    assert any(notice.endswith(remedy) for notice in run_slowly(experiment))
    shares = {line["validation_share"] for line in metrics_of(tmp_path / "run")}
    assert len(shares) == 1
    assert 0.2 < shares.pop() <= 0.5


@pytest.mark.parametrize("override", ["training.steps=12", "training.evaluation_share=null"])
def test_without_a_limit_of_time_the_whole_split_is_scored(override, text_file, tmp_path):
    budget = "training.steps=12" if "steps" in override else "training.minutes=0.5"
    config = small_config(text_file, budget, override)
    (notice,) = run_slowly(prepare.begin(config, tmp_path / "run"))
    assert notice.startswith("the evaluation took ") and "training.evaluations=1" in notice
    assert all(line["validation_share"] == 1 for line in metrics_of(tmp_path / "run"))


def test_a_resumed_training_scores_the_part_that_it_scored_before(text_file, tmp_path):
    config = small_config(text_file, "training.minutes=0.5")
    experiment = prepare.begin(config, tmp_path / "run")
    run_slowly(experiment)
    part = experiment.state.validation_part
    assert part > 1
    resumed = prepare.resume(tmp_path / "run", budget={"steps": experiment.state.step + 2})
    assert resumed.state.validation_part == part
    finish(resumed)
    shares = {line["validation_share"] for line in metrics_of(tmp_path / "run")}
    assert len(shares) == 1


def test_a_run_of_an_earlier_version_scores_the_whole_split(text_file, tmp_path):
    stop_at(prepare.begin(small_config(text_file), tmp_path / "run"), 3)
    path = tmp_path / "run" / "last" / "state.json"
    facts = json.loads(path.read_text())
    added = ("sha256", "due_metrics", "validation_part", "precision", "budget")
    path.write_text(json.dumps({key: fact for key, fact in facts.items() if key not in added}))
    resumed = prepare.resume(tmp_path / "run")
    assert (resumed.state.validation_part, resumed.state.due_metrics) == (1, None)


def test_a_stop_ends_an_evaluation_before_the_next_tokens(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    calls = itertools.count(1)
    with pytest.raises(EvaluationStopped):
        validate(experiment, stop=lambda: next(calls) == 3, clock=lambda: 0.0)
    assert next(calls) == 4
    assert experiment.model.training

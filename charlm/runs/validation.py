"""Score the validation split, or a part of it, during training."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import record_spans
from charlm.data.windows.scoring import WARM_UP, windows_to_score
from charlm.data.windows.window import ScoringWindow
from charlm.errors import DivergenceError, counted
from charlm.model.language_model import LanguageModel
from charlm.runs.experiment import Experiment
from charlm.runs.old_text import ANCESTOR_LOSS
from charlm.training.loss import Score, score

# Validation uses at most 64 streams of at least 1,024 tokens.
_MAX_STREAMS = 64
_MIN_TOKENS_PER_STREAM = 1024
# Least number of tokens in a part of the split, so that its loss can choose the best model.
_MIN_TOKENS_SCORED = 8192
# Between parts of 500 characters of python-docs, the gain of 40 steps, 0.044 nats on average,
# varied by 0.016 nats (one standard deviation); between parts of 50, by 0.027 nats.
_MIN_TOKENS_TO_CHOOSE = 500


class EvaluationStopped(Exception):
    """Training was asked to stop during an evaluation, which has no result."""


def validate(
    experiment: Experiment, *, stop: Callable[[], bool], clock: Callable[[], float]
) -> Score | None:
    """Score the validation split, or a part of it; return None if there is none.

    A stream split is scored in parallel streams, each with a warm-up. All processes of a group call
    this together; each one scores a part. The first call measures the time, and decides which part
    of the split this one and all later ones score.

    Args:
        experiment: The training run.
        stop: Function that is called after every few tokens; if it returns True, the evaluation
            ends.
        clock: Function that returns seconds.

    Raises:
        EvaluationStopped: A process of the group was asked to stop.
    """
    if "valid" not in experiment.tokens:
        return None
    if experiment.state.validation_part is None:
        return _measure(experiment, stop, clock)
    return _score_part(experiment, experiment.state.validation_part, stop).score


def small_split(experiment: Experiment) -> Iterator[str]:
    """Yield a line if the validation split is too small to choose the best model by its loss."""
    tokens = experiment.tokens.get("valid")
    if tokens is not None and tokens.num_predicted < _MIN_TOKENS_TO_CHOOSE:
        noun = "token" if tokens.targets is None else "prediction"
        yield (
            f"warning: the validation part has {counted(tokens.num_predicted, noun)}; with "
            f"fewer than {_MIN_TOKENS_TO_CHOOSE}, it can be chance which checkpoint is best; give "
            "a longer text, raise corpus.valid_share, or use the last one with --checkpoint last"
        )


def _measure(experiment: Experiment, stop: Callable[[], bool], clock: Callable[[], float]) -> Score:
    """Score the whole split if there is time for it, else a part, and keep to this choice."""
    state = experiment.state
    total = experiment.tokens["valid"].num_predicted
    largest_part = max(1, total // _MIN_TOKENS_SCORED)
    deadline = math.inf if largest_part == 1 else clock() + _seconds_per_evaluation(experiment)
    begun = _score_part(experiment, 1, stop, lambda: clock() >= deadline)
    if deadline == math.inf or begun.score.tokens >= total:
        state.validation_part = 1
        return begun.score
    part = math.ceil(_num_inputs(experiment) / max(begun.inputs, 1))
    state.validation_part = min(largest_part, max(2, part))
    return _score_part(experiment, state.validation_part, stop).score


def _num_inputs(experiment: Experiment) -> int:
    """Return the number of inputs of the whole split, with warm-ups, without padding."""
    num_ids = len(experiment.tokens["valid"].ids)
    is_stream = experiment.corpus.mode == "stream"
    warm_ups = WARM_UP * _num_streams(num_ids) if is_stream else 0
    directions = 2 if experiment.model.direction == "both" else 1
    return directions * (num_ids + warm_ups)


def old_text_metrics(experiment: Experiment) -> dict[str, float]:
    """Return the field of metrics.jsonl about the ancestor's text; empty without such a text.

    The first process of a group scores it alone.
    """
    model, old_text = experiment.model, experiment.old_text
    if old_text is None or not isinstance(model, LanguageModel) or not experiment.group.is_first:
        return {}
    loss_nats = old_text.loss_nats(model, experiment.hardware)
    return {} if loss_nats is None else {ANCESTOR_LOSS: loss_nats}


class _Scored(NamedTuple):
    """The score of a part, and the number of inputs that were read, padding and warm-ups too."""

    score: Score
    inputs: int


def fraction_scored(experiment: Experiment, score: Score | None) -> float:
    """Return the fraction of the validation split that was scored."""
    if score is None or experiment.state.validation_part in (None, 1):
        return 1.0
    return score.tokens / experiment.tokens["valid"].num_predicted


def _seconds_per_evaluation(experiment: Experiment) -> float:
    """Return the time that each evaluation may take; infinity for a budget without a time.

    Where the budget is a number of steps or epochs, no result depends on the clock.
    """
    section = experiment.config.training
    if section.minutes is None or section.evaluation_share is None:
        return math.inf
    return section.evaluation_share * 60 * section.minutes / section.evaluations


def _score_part(
    experiment: Experiment,
    part: int,
    stop: Callable[[], bool],
    is_late: Callable[[], bool] = lambda: False,
) -> _Scored:
    """Score one `part`-th of the validation split, or less of it if `is_late` becomes true.

    Raises:
        EvaluationStopped: A process of the group was asked to stop.
    """
    hardware = experiment.hardware
    has_targets = experiment.tokens["valid"].targets is not None
    is_stopped = False
    own_inputs = 0

    def read() -> Iterator[ScoringWindow]:
        nonlocal own_inputs
        for window in _windows(experiment, part):
            if has_targets:  # A task has fewer predictions than inputs.
                own_inputs += window.inputs.numel()
            yield window

    def should_end(rows: int) -> bool:
        nonlocal is_stopped, own_inputs
        if not has_targets:  # With a large vocabulary, a window is predicted in several parts.
            own_inputs += rows
        is_stopped = stop()
        return is_stopped or is_late()

    own = score(
        experiment.model,
        read(),
        device=hardware.device,
        precision=hardware.precision,
        should_end=should_end,
    )
    nats, tokens, correct, inputs, stopped = experiment.group.all_reduce(
        own.nats, own.tokens, own.correct, own_inputs, is_stopped
    )
    if stopped:
        raise EvaluationStopped
    return _Scored(Score(nats=nats, tokens=int(tokens), correct=correct), int(inputs))


def _windows(experiment: Experiment, part: int) -> Iterator[ScoringWindow]:
    """Return the windows of one `part`-th of the validation split that this process scores.

    The part is spread over the split: the beginning of every parallel stream, or every `part`-th
    record.
    """
    ids, targets = experiment.tokens["valid"].ids, experiment.tokens["valid"].targets
    mode = experiment.corpus.mode
    num_tokens = len(ids) // part
    if part > 1 and mode == "records":
        at = _every_nth_record(ids, part)
        ids, targets = np.asarray(ids[at]), None if targets is None else targets[at]
    windows = windows_to_score(
        ids,
        mode=mode,
        direction=experiment.model.direction,
        streams=_num_streams(num_tokens),
        shard=experiment.group.shard,
        targets=targets,
    )
    if part == 1 or mode == "records":
        return windows
    return _first_tokens(windows, num_tokens / experiment.group.size)


def _num_streams(num_tokens: int) -> int:
    """Return the number of streams in which a number of tokens is scored."""
    return max(1, min(_MAX_STREAMS, num_tokens // _MIN_TOKENS_PER_STREAM))


def _every_nth_record(ids: Ids, n: int) -> npt.NDArray[np.int64]:
    """Return the positions of the ids of every n-th record, and of the first one."""
    spans = record_spans(ids)
    is_chosen = np.arange(len(spans)) % n == 0
    return np.flatnonzero(np.repeat(is_chosen, spans[:, 1] - spans[:, 0]))


def _first_tokens(windows: Iterator[ScoringWindow], count: float) -> Iterator[ScoringWindow]:
    """Yield windows, the last one cut short, that predict about this number of tokens."""
    for window in windows:
        predicted = (window.positions >= 0).sum(dim=1).cumsum(dim=0)
        length = int((predicted < count).sum()) + 1
        yield replace(
            window,
            inputs=window.inputs[:length],
            targets=window.targets[:length],
            positions=window.positions[:length],
        )
        count -= int(predicted[-1])
        if count <= 0:
            return


def record_score(experiment: Experiment, score: Score | None) -> bool:
    """Record a validation score; return whether it is the best so far, as without a split.

    Raises:
        DivergenceError: The validation loss is not finite.
    """
    state = experiment.state
    if score is not None:
        if not math.isfinite(score.loss_nats):
            raise DivergenceError(f"step {state.step}: the validation loss is {score.loss_nats}")
        experiment.average.record_validation_loss(score.loss_nats)
    best = state.best_loss_nats
    is_best = score is None or best is None or score.loss_nats < best
    if is_best:
        state.best_loss_nats = score.loss_nats if score else None
        state.evaluations_since_best = 0
    else:
        state.evaluations_since_best += 1
        state.stalls += 1
    return is_best


def is_better_than_guessing(experiment: Experiment, score: Score | None) -> bool:
    """Return whether a loss is at most that of a uniform distribution over what is predicted."""
    num_outputs = len(experiment.labels) or experiment.tokenizer.vocabulary_size
    return score is None or score.loss_nats <= math.log(num_outputs)

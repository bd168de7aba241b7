"""Score the validation split during training."""

import math

from charlm.data.windows import windows_to_score
from charlm.errors import DivergenceError
from charlm.runs.experiment import Experiment
from charlm.training.loop import DIVERGENCE_REMEDY
from charlm.training.loss import Score, score

# Validation uses at most 64 streams of at least 1,024 tokens.
_MAX_STREAMS = 64
_MIN_TOKENS_PER_STREAM = 1024


def validate(experiment: Experiment) -> Score | None:
    """Score the whole validation split; return None if there is none.

    A stream split is scored in parallel streams, each with a warm-up. All processes of a group call
    this together; each one scores a part.
    """
    if "valid" not in experiment.tokens:
        return None
    model = experiment.model
    ids = experiment.tokens["valid"].ids
    windows = windows_to_score(
        ids,
        mode=experiment.corpus.mode,
        direction=model.direction,
        streams=max(1, min(_MAX_STREAMS, len(ids) // _MIN_TOKENS_PER_STREAM)),
        shard=experiment.group.shard,
    )
    hardware = experiment.hardware
    part = score(model, windows, device=hardware.device, precision=hardware.precision)
    nats, tokens, correct = experiment.group.all_reduce(part.nats, part.tokens, part.correct)
    return Score(nats=nats, tokens=int(tokens), correct=correct)


def record_score(experiment: Experiment, score: Score | None) -> bool:
    """Record a validation score; return whether it is the best so far, as without a split.

    Raises:
        DivergenceError: The validation loss is not finite.
    """
    state = experiment.state
    if score is not None:
        if not math.isfinite(score.loss_nats):
            raise DivergenceError(
                f"step {state.step}: the validation loss is {score.loss_nats}; {DIVERGENCE_REMEDY}"
            )
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
    """Return whether a score is at least that of a uniform distribution over the vocabulary."""
    vocabulary_size = experiment.tokenizer.vocabulary_size
    return score is None or score.loss_nats <= math.log(vocabulary_size)

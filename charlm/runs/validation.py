"""Score the validation split during training."""

from charlm.data.windows import windows_to_score
from charlm.runs.experiment import Experiment
from charlm.training.loss import Score, score

# While training, validation reads up to so many pieces of the split side by side, none shorter than so many tokens.
_VALIDATION_STREAMS, _VALIDATION_PIECE = 64, 1024


def validate(experiment: Experiment) -> Score | None:
    """Score the validation split, whole; streams side by side, each with a warm-up. None where there is no split.

    Of several processes each scores a share; they call it together.
    """
    if "valid" not in experiment.tokens:
        return None
    group = experiment.group
    model, ids = experiment.model, experiment.tokens["valid"].ids
    windows = windows_to_score(
        ids,
        mode=experiment.corpus.mode,
        direction=model.direction,
        streams=max(1, min(_VALIDATION_STREAMS, len(ids) // _VALIDATION_PIECE)),
        shard=group.shard,
    )
    own = score(model, windows, device=experiment.device, precision=experiment.precision)
    nats, tokens, correct = group.all_reduce(own.nats, own.tokens, own.correct)
    return Score(nats, int(tokens), correct)

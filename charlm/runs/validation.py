"""Score the validation split during training."""

from collections.abc import Iterator

from charlm.data.tokenizer import Ids
from charlm.data.windows import (
    WARM_UP,
    Window,
    in_direction,
    scoring_record_windows,
    scoring_windows,
)
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

    def read(ids: Ids) -> Iterator[Window]:
        if experiment.corpus.mode == "records":
            return scoring_record_windows(ids, shard=group.shard)
        streams = max(1, min(_VALIDATION_STREAMS, len(ids) // _VALIDATION_PIECE))
        return scoring_windows(ids, streams=streams, warm_up=WARM_UP, shard=group.shard)

    model, ids = experiment.model, experiment.tokens["valid"].ids
    windows = in_direction(model.direction, ids, mode=experiment.corpus.mode, read=read)
    own = score(model, windows, device=experiment.device, precision=experiment.precision)
    nats, tokens, correct = group.all_reduce(own.nats, own.tokens, own.correct)
    return Score(nats, int(tokens), correct)

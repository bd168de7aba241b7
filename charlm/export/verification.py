"""Every export is verified: logits by the target's own runtime, compared with those of charlm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows.directions import record_spans, reverse
from charlm.errors import CharlmError, CheckpointError, CorpusError
from charlm.export.targets import Precision
from charlm.model.log_probabilities import predict_window
from charlm.model_texts import encode_string, text_to_score
from charlm.sampling.options import SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel

Logits = npt.NDArray[np.float32]
_PASSAGE_TOKENS = 1000
_MAX_LOGITS = 1 << 24  # The logits of a passage take at most 64 MiB.


class Bound(NamedTuple):
    """The largest differences from charlm that an export may have.

    Attributes:
        logits: Largest difference of a logit, relative to the largest logit if that is above 1;
            None if only the other one is tested.
        nats: Difference in nats per token.
    """

    logits: float | None
    nats: float


BOUNDS: dict[Precision, Bound] = {
    "fp32": Bound(logits=1e-4, nats=1e-5),
    "fp16": Bound(logits=None, nats=0.005),
    "int8": Bound(logits=None, nats=0.02),
}


@dataclass(frozen=True)
class Passage:
    """A text to compare two runtimes on.

    Attributes:
        sequences: Ids to predict, in the order of reading, each sequence from the initial state
            with <EOS> as its first input: one in stream mode, one per record in records mode.
        source: Origin of the text, for messages.
    """

    sequences: list[list[int]]
    source: str

    @property
    def inputs(self) -> list[list[int]]:
        """Ids that the model reads, in sequences of the same lengths."""
        return [[EOS, *sequence[:-1]] for sequence in self.sequences]


class Computed(NamedTuple):
    """What the runtime of a target computed.

    Attributes:
        logits: Logits after each input of each sequence, (tokens, vocabulary).
        runtime: Name of the runtime, for messages, such as "onnxruntime".
    """

    logits: list[Logits]
    runtime: str


@dataclass(frozen=True)
class Verification(Result):
    """How far the logits of an export are from those of charlm.

    Attributes:
        runtime: Name of the program that computed the logits of the export.
        passage: Origin of the text.
        tokens: Number of tokens that were predicted.
        loss_nats: Nats per token of charlm.
        nats_difference: Nats per token of the export, minus those of charlm.
        largest_logit_difference: Largest difference of a logit.
        logit_bound: Largest difference of a logit that is accepted, or None.
        nats_bound: Largest absolute difference in nats that is accepted.
    """

    runtime: str
    passage: str
    tokens: int
    loss_nats: float
    nats_difference: float
    largest_logit_difference: float
    logit_bound: float | None
    nats_bound: float


def choose_passage(trained: TrainedModel, text: str | None) -> Passage:
    """Return the passage for a model: a given text, validation text, else text of the model.

    Text of the model is used if its corpus is not at hand, or has no validation part.

    Raises:
        CharlmError: The given text has no token.
    """
    size = min(_PASSAGE_TOKENS, max(1, _MAX_LOGITS // trained.tokenizer.vocabulary_size))
    if text is not None:
        ids, source = encode_string(trained, text).ids, "the given text"
    else:
        try:
            ids, source = text_to_score(trained).tokens.ids, "the validation text"
        except (CheckpointError, CorpusError):
            return _sampled(trained, size)
    if len(ids) == 0:
        raise CharlmError("the text to verify the export with has no token; give another text")
    head = np.asarray(ids[:size])
    records = _complete_records(head) if trained.writes_records else []
    pieces = records or [head]  # A text may have no complete record.
    if not trained.is_forward:
        pieces = [reverse(piece, mode="stream") for piece in pieces]
    return Passage([piece.tolist() for piece in pieces], source)


def compute_logits(trained: TrainedModel, passage: Passage) -> list[Logits]:
    """Return charlm's logits after each input of each sequence, (tokens, vocabulary)."""
    return [_logits(trained, inputs) for inputs in passage.inputs]


def compare_logits(
    expected: Sequence[Logits], computed: Computed, passage: Passage, precision: Precision
) -> Verification:
    """Return how far the logits of an export are from those of charlm.

    Raises:
        CharlmError: They are further away than the bound.
    """
    ours, theirs = np.concatenate(expected), np.concatenate(computed.logits)
    if ours.shape != theirs.shape:
        raise ValueError(f"{computed.runtime} returned {theirs.shape} instead of {ours.shape}")
    targets = np.concatenate([np.asarray(ids) for ids in passage.sequences])
    loss = _loss_nats(ours, targets)
    bound = BOUNDS[precision]
    result = Verification(
        runtime=computed.runtime,
        passage=passage.source,
        tokens=len(targets),
        loss_nats=loss,
        nats_difference=_loss_nats(theirs, targets) - loss,
        largest_logit_difference=float(np.abs(ours - theirs).max()),
        logit_bound=bound.logits and bound.logits * max(1.0, float(np.abs(ours).max())),
        nats_bound=bound.nats,
    )
    _check(result, precision)
    return result


def _check(result: Verification, precision: Precision) -> None:
    """Raise CharlmError unless the differences are within the bounds; NaN is not."""
    is_close = abs(result.nats_difference) <= result.nats_bound
    if result.logit_bound is not None:
        is_close = is_close and result.largest_logit_difference <= result.logit_bound
    if not is_close:
        remedy = "this is a fault of charlm" if precision == "fp32" else "export with more bits"
        raise CharlmError(
            f"export: {result.runtime} differs from charlm by {result.nats_difference:+.2g} nats "
            f"per token (at most {result.nats_bound:g} are accepted), and by up to "
            f"{result.largest_logit_difference:.2g} in a logit; nothing was written; {remedy}"
        )


def _loss_nats(logits: Logits, targets: npt.NDArray[np.int64]) -> float:
    """Return the mean negative log-probability of the targets, in float64."""
    wide = torch.from_numpy(logits).double()
    return float(torch.nn.functional.cross_entropy(wide, torch.from_numpy(targets)))


@torch.inference_mode()
def _logits(trained: TrainedModel, inputs: Sequence[int]) -> Logits:
    ids = torch.tensor(inputs, device=trained.device)[:, None]
    predictions, _ = predict_window(trained.model, ids, ids)
    logits: Logits = torch.cat([prediction.logits for prediction in predictions]).cpu().numpy()
    return logits


def _complete_records(ids: Ids) -> list[Ids]:
    """Return the records of a text that end in it, each with its <EOS>."""
    return [ids[start:stop] for start, stop in record_spans(ids).tolist()]


def _sampled(trained: TrainedModel, size: int) -> Passage:
    """Return a passage of about `size` tokens that the model writes, the same at every call."""
    count = 16 if trained.writes_records else 1
    stop = StopCondition(length=max(1, size // count))
    samples = sample(trained, SampleOptions(stop=stop, count=count, seed=1))
    sequences = [[*each.tokens, EOS] if each.ended else each.tokens for each in samples]
    return Passage(sequences, "text of the model")

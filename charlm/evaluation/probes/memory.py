"""Memory: which earlier tokens each prediction of a passage depends on.

The measure is the connectivity of Madsen 2019, "Visualizing memorization in RNNs" (Distill,
doi:10.23915/distill.00016): the squared norm of the gradient of the target's logit with respect to
each earlier one-hot input. The gradient of the embedded input is mapped back by the embedding
matrix; the squares are summed over the vocabulary, and no root is taken. What a token does through
the rows of its n-grams is not counted: they are chosen by ids, and have no gradient by them.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from charlm.config.corpus import Mode
from charlm.data.tokenizer import EOS, Ids, Tokenizer
from charlm.data.windows.directions import record_spans, reverse
from charlm.errors import CorpusError, quote
from charlm.evaluation.probes.passage import Alternative, most_probable, token_labels
from charlm.evaluation.probes.reading import read_beginning, texts_of
from charlm.evaluation.static_model import Floats, Integers
from charlm.model.embedding import OneHot
from charlm.model.language_model import LanguageModel
from charlm.storage.results import Result
from charlm.storage.tables import format_settings
from charlm.trained_model import TrainedModel, provenance, require_one_direction

if TYPE_CHECKING:
    from charlm.data.cards import Part

MAX_TOKENS = 400  # The work grows with the square of the number of tokens.
_SHOWN = 5  # Tokens that a prediction depends on most.
ALTERNATIVES = 3  # Most probable tokens that are listed for each prediction.
# Tokens of all copies of the passage that are read together: their states and gates in float64
# take a few hundred megabytes.
_MAX_TOKENS_PER_BATCH = 8192
BOTH_DIRECTIONS = (  # Why the memory of a model that reads in both directions is not measured.
    "a prediction depends on the tokens after it too; measure a model of direction forward or "
    "backward"
)


@dataclass(frozen=True)
class Dependence(Result):
    """The prediction of one token, and what it depends on.

    Attributes:
        token: Id of the predicted token.
        text: Text of the token.
        probability: Probability of the token.
        alternatives: The most probable tokens at this place, the first one first.
        squared_norms: Squared norm of the gradient of the token's logit with respect to each
            earlier token of the passage, in reading order.
    """

    token: int
    text: str
    probability: float
    alternatives: list[Alternative]
    squared_norms: list[float]

    @property
    def relative(self) -> list[float]:
        """The squared norms divided by their maximum; zeros if all are zero."""
        most = max(self.squared_norms, default=0.0)
        return [value / most if most else 0.0 for value in self.squared_norms]


@dataclass(frozen=True)
class MeanDependence(Result):
    """Mean dependence on the tokens at one distance.

    Attributes:
        distance: Number of tokens from the earlier token to the predicted one, from 1.
        relative: Mean of the squared norms, each divided by the maximum of its row.
        count: Number of predictions that have a token at this distance.
    """

    distance: int
    relative: float
    count: int


@dataclass(frozen=True)
class Memory(Result):
    """Dependence of each prediction of a passage on the tokens before it.

    Attributes:
        predictions: One entry for each token of the passage, in reading order.
        by_distance: Mean dependence by distance.
        settings: Passage, measure, run, version and so on.
    """

    predictions: list[Dependence]
    by_distance: list[MeanDependence]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield a row for each prediction, and the settings."""
        yield f"{'token':<14}{'probability':>12}  depends most on (relative value, distance)"
        texts = [prediction.text for prediction in self.predictions]
        for prediction in self.predictions:
            sources = ", ".join(_sources(prediction, texts))
            yield f"{quote(prediction.text):<14}{prediction.probability:>12.2%}  {sources}"
        yield format_settings(self.settings)


class Connectivity(NamedTuple):
    """Gradients and log-probabilities of a passage.

    Attributes:
        squared_norms: Squared norm of the gradient of the logit of token o with respect to the
            one-hot input of token t, (tokens o, tokens t); zero for t ≥ o.
        log_p: Natural logarithm of the probability of each id, (tokens, vocabulary).
    """

    squared_norms: Floats
    log_p: Floats


def measure_memory(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    tokens: int = MAX_TOKENS,
) -> Memory:
    """Measure which earlier tokens each prediction of a passage depends on.

    The passage is read from the initial state, with <EOS> as its first input.

    Args:
        trained: The model.
        text: Passage as a string.
        paths: Files, folders or names of corpora, instead of `text`.
        split: Part of the run's own corpus, if neither of the two is given.
        tokens: Largest number of tokens of the passage; the rest of the text is not read.

    Raises:
        CharlmError: The text cannot be read or has fewer than two tokens, or the model reads in
            both directions.
    """
    require_one_direction(trained, BOTH_DIRECTIONS)
    ids, name, _ = read_beginning(trained, text, paths, split, tokens)
    if trained.model.direction == "backward":
        ids = np.asarray(reverse(ids, mode=trained.mode), dtype=np.int64)
    if len(ids) < 2:
        raise CorpusError(f"{name}: {len(ids)} tokens; a passage needs at least 2")
    spans = record_spans(ids) if trained.mode == "records" else np.array([[0, len(ids)]])
    records = [measure_connectivity(trained.model, ids[start:end]) for start, end in spans]
    memory = summarize(ids, records, trained.tokenizer, mode=trained.mode)
    measure = "squared norm of the gradient of the target's logit by the one-hot input"
    if trained.config.model.ngrams:
        measure += " of the embedding, without the n-grams"
    settings = {
        "text": name,
        "tokens": len(ids),
        "measure": measure,
        "state": "initial",
        "precision": "fp64",
    }
    return replace(memory, settings=provenance(trained) | settings)


def measure_connectivity(model: LanguageModel, ids: Ids) -> Connectivity:
    """Measure the gradient of the logit of each token with respect to each earlier token.

    The passage is read once for each predicted token, side by side, so that one backward pass gives
    the gradients of many predictions.

    Args:
        model: Model of one direction; it is not changed.
        ids: Passage in reading order, (tokens,).
    """
    model = copy.deepcopy(model).double().eval()
    device = next(model.parameters()).device
    targets = torch.from_numpy(ids.astype(np.int64)).to(device)
    inputs = torch.cat([targets.new_tensor([EOS]), targets[:-1]])
    num_tokens = len(ids)
    squared_norms = np.zeros((num_tokens, num_tokens))
    log_p = []
    size = max(1, _MAX_TOKENS_PER_BATCH // num_tokens)
    for first in range(0, num_tokens, size):
        last = min(first + size, num_tokens)
        # The predictions of a batch need no token after the last of them.
        gradients, rows = _gradients(model, inputs[:last], targets[first:last])
        log_p.append(rows)
        # The input at position t + 1 is token t; the input at position 0 is <EOS>.
        squared_norms[first:last, : last - 1] = gradients[1:].T
    return Connectivity(squared_norms, np.concatenate(log_p))


def summarize(
    ids: Integers, records: Sequence[Connectivity], tokenizer: Tokenizer, *, mode: Mode
) -> Memory:
    """Return predictions with their texts, and the mean dependence by distance.

    Args:
        ids: Passage in reading order, (tokens,).
        records: Gradients and log-probabilities of each record of the passage; a text of stream
            mode is one record. A prediction does not depend on the records before its own.
        tokenizer: Tokenizer of the model.
        mode: `stream` or `records`.
    """
    labels = token_labels(tokenizer)
    texts = texts_of(ids, tokenizer, records=mode == "records")
    predictions = [
        Dependence(
            token=token,
            text=texts[position],
            probability=math.exp(row[token]),
            alternatives=most_probable(row, labels, ALTERNATIVES),
            squared_norms=[0.0] * (position - at) + record.squared_norms[at, :at].tolist(),
        )
        for position, token, (record, at, row) in zip(
            range(len(ids)), ids.tolist(), _rows(records), strict=True
        )
    ]
    lengths = [at for _, at, _ in _rows(records)]
    return Memory(predictions, _by_distance(predictions, lengths), settings={})


def _rows(records: Sequence[Connectivity]) -> Iterator[tuple[Connectivity, int, Floats]]:
    """Yield the record of each prediction, its place there, and its log-probabilities."""
    for record in records:
        for at, row in enumerate(record.log_p):
            yield record, at, row


def _gradients(model: LanguageModel, inputs: Tensor, targets: Tensor) -> tuple[Floats, Floats]:
    """Return squared norms of gradients, and log-probabilities, of the last targets of a passage.

    Args:
        model: Model in float64.
        inputs: Ids up to the input that predicts the last target, (time,).
        targets: Targets of the last inputs, (targets,).

    Returns:
        Squared norms by input and target, (time, targets), and the natural logarithm of the
        probability of each id, (targets, vocabulary).
    """
    embedded: list[Tensor] = []

    def record(_module: object, _arguments: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    columns = torch.arange(len(targets), device=inputs.device)
    handle = model.encoder.embedding.register_forward_hook(record)
    try:
        features, _ = model.encoder(inputs[:, None].expand(-1, len(targets)))
    finally:
        handle.remove()
    # Column b predicts target b only: the gradient of the sum consists of the columns' gradients.
    logits = model.projection(model.adapt(features[len(inputs) - len(targets) + columns, columns]))
    total = logits.gather(1, targets[:, None]).sum()
    (gradients,) = torch.autograd.grad(total, embedded)
    if not isinstance(model.encoder.embedding, OneHot):
        gradients = gradients @ model.encoder.embedding.weight.detach().T
    squared = gradients.square().sum(dim=-1)  # (time, targets)
    log_p = logits.detach().log_softmax(dim=-1)
    return squared.numpy(force=True), log_p.numpy(force=True)


def _by_distance(predictions: Sequence[Dependence], lengths: Sequence[int]) -> list[MeanDependence]:
    """Return mean dependences by distance, over the tokens that each prediction can depend on.

    Args:
        predictions: The predictions.
        lengths: Number of tokens before each prediction in its record.
    """
    relative: list[list[float]] = [[] for _ in predictions]
    for prediction, length in zip(predictions, lengths, strict=True):
        before = prediction.relative[len(prediction.relative) - length :]
        for distance, value in enumerate(reversed(before), start=1):
            relative[distance].append(value)
    return [
        MeanDependence(distance, math.fsum(values) / len(values), len(values))
        for distance, values in enumerate(relative)
        if values
    ]


def _sources(prediction: Dependence, texts: list[str]) -> Iterator[str]:
    """Yield the earlier tokens that a prediction depends on most; on other records, on none."""
    relative = prediction.relative
    order = sorted(range(len(relative)), key=lambda at: -relative[at])[:_SHOWN]
    for at in order:
        if not relative[at]:
            return
        yield f"{quote(texts[at])} ({relative[at]:.2f}, {len(relative) - at})"

"""A passage token by token: probability, rank, entropy, and the most probable alternatives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from charlm.config.corpus import Mode
from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.windows.directions import reading_order
from charlm.data.windows.scoring import windows_to_score
from charlm.evaluation.probes.reading import read_beginning, texts_of
from charlm.evaluation.static_model import Floats, require_one_probability
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import predict_window
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel, provenance

if TYPE_CHECKING:
    from charlm.data.cards import Part

MAX_TOKENS = 400
ALTERNATIVES = 10


@dataclass(frozen=True)
class Alternative(Result):
    """A token that the model could have read instead.

    Attributes:
        text: Text of the token.
        probability: Its probability.
    """

    text: str
    probability: float


@dataclass(frozen=True)
class PassageToken(Result):
    """The prediction of one token of a passage.

    Attributes:
        token: Id of the token.
        text: Text that the token adds to the passage.
        label: Text of the token by itself.
        probability: Probability of the token.
        surprisal_bits: −log2 of the probability.
        rank: Number of tokens that are at least as probable, the token itself included.
        entropy_bits: Entropy of the distribution over the vocabulary.
        alternatives: The most probable tokens, the first one first.
    """

    token: int
    text: str
    label: str
    probability: float
    surprisal_bits: float
    rank: int
    entropy_bits: float
    alternatives: list[Alternative]


@dataclass(frozen=True)
class Passage(Result):
    """A passage with the prediction of each token.

    Attributes:
        tokens: The tokens in reading order.
        vocabulary_size: Number of tokens that the model knows.
        settings: Passage, run, version and so on.
    """

    tokens: list[PassageToken]
    vocabulary_size: int
    settings: dict[str, Any]


def measure_passage(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    tokens: int = MAX_TOKENS,
) -> Passage:
    """Predict each token of a passage, which is read from the initial state.

    Args:
        trained: The model.
        text: Passage as a string.
        paths: Files, folders or names of corpora, instead of `text`.
        split: Part of the run's own corpus, if neither of the two is given.
        tokens: Largest number of tokens of the passage; the rest of the text is not read.

    Raises:
        CharlmError: The text cannot be read or has no token, or the model reads in both directions.
    """
    require_one_probability(trained.model)
    ids, name, is_cut = read_beginning(trained, text, paths, split, tokens)
    log_p = predict_passage(trained.model, ids, mode=trained.mode)
    settings = {"text": name, "is_cut": is_cut, "state": "initial", "precision": "fp32"}
    return Passage(
        tokens=_describe(ids, log_p, trained.tokenizer, records=trained.writes_records),
        vocabulary_size=trained.tokenizer.vocabulary_size,
        settings=provenance(trained) | settings,
    )


@torch.inference_mode()
def predict_passage(model: LanguageModel, ids: Ids, *, mode: Mode, streams: int = 1) -> Floats:
    """Return the log-probability of every id at each place, (tokens, vocabulary).

    Args:
        model: Model of one direction, in evaluation mode.
        ids: Text in its own order, (tokens,).
        mode: `stream` or `records`.
        streams: Number of pieces read side by side in stream mode; one is exact.
    """
    device = next(model.parameters()).device
    log_p = np.full((len(ids), model.vocabulary_size), np.nan)
    states = None
    order = reading_order(ids, model.direction, mode=mode)
    for window in windows_to_score(ids[order], mode=mode, streams=streams):
        states = None if window.resets_state else states
        predictions, states = predict_window(
            model, window.inputs.to(device), window.targets.to(device), states
        )
        rows = torch.cat([logits.double().log_softmax(dim=-1) for logits, _ in predictions])
        positions = window.positions.flatten().numpy()
        log_p[order[positions[positions >= 0]]] = rows.numpy(force=True)[positions >= 0]
    return log_p


def token_labels(tokenizer: Tokenizer) -> list[str]:
    r"""Return the text of each id; a byte that is not UTF-8 is shown as in `\xe2`."""
    texts = tokenizer.token_texts(eos=b"<EOS>", unknown=b"<UNK>")
    return [text.decode("utf-8", "backslashreplace") for text in texts]


def most_probable(log_p: Floats, labels: Sequence[str], count: int) -> list[Alternative]:
    """Return the `count` most probable tokens of a distribution, (vocabulary,)."""
    order = np.argsort(-log_p, kind="stable")[:count].tolist()
    return [Alternative(labels[token], math.exp(log_p[token])) for token in order]


def describe_token(
    token: int, text: str, log_p: Floats, labels: Sequence[str], *, alternatives: int = ALTERNATIVES
) -> PassageToken:
    """Return the prediction of one token.

    Args:
        token: Id of the token.
        text: Text that it adds to the passage.
        log_p: Log-probability of every id in its place, (vocabulary,).
        labels: Text of each id, as `token_labels` returns it.
        alternatives: Number of most probable tokens to list.
    """
    return PassageToken(
        token=token,
        text=text,
        label=labels[token],
        probability=math.exp(log_p[token]),
        surprisal_bits=-float(log_p[token]) / math.log(2),
        rank=int((log_p >= log_p[token]).sum()),
        entropy_bits=entropy_bits(log_p),
        alternatives=most_probable(log_p, labels, alternatives) if alternatives else [],
    )


def entropy_bits(log_p: Floats) -> float:
    """Return the entropy of a distribution whose log-probabilities are finite, (vocabulary,)."""
    return -float((np.exp(log_p) * log_p).sum()) / math.log(2)


def _describe(
    ids: Ids, log_p: Floats, tokenizer: Tokenizer, *, records: bool
) -> list[PassageToken]:
    labels = token_labels(tokenizer)
    texts = texts_of(ids, tokenizer, records=records)
    return [
        describe_token(token, text, row, labels)
        for token, text, row in zip(ids.tolist(), texts, log_p, strict=True)
    ]

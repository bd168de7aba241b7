"""Scores of methods without a network, which a trained model must beat."""

import bz2
import lzma
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from charlm.config.corpus import Mode
from charlm.data.spelling import Restoration
from charlm.data.tokenizer import UNK, Ids
from charlm.data.tokens import Counts, count_ids
from charlm.data.utf8 import count_characters
from charlm.evaluation.adaptive.ngram import KneserNey
from charlm.evaluation.overlap import SAME_TEXT, shared_fraction
from charlm.evaluation.static_model import require_tokens
from charlm.storage.results import Result

ORDER = 5  # Length of the longest n-grams.
_LZMA_PRESET = 9 | lzma.PRESET_EXTREME
_LZMA_DICTIONARY_BYTES = 1 << 26  # Preset 9 has a dictionary of this size.
_LZMA = "lzma, preset 9 extreme"
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    _LZMA: lambda data: lzma.compress(data, preset=_LZMA_PRESET),
    "bz2, level 9": lambda data: bz2.compress(data, 9),
    "zlib, level 9": lambda data: zlib.compress(data, 9),
}


@dataclass(frozen=True)
class Baseline(Result):
    """The score of one method on a text.

    Attributes:
        name: Name of the method, with its settings.
        loss_nats: Nats per token, <EOS> included; None for a compressor, which has no tokens.
        perplexity: exp(loss_nats).
        bits_per_character: Bits per character of the original text. Those of tokens include the
            cost of restoring the text from its tokens; None if it cannot be computed.
        bits_per_byte: Bits per byte of the original text, or None.
        fitted_on_the_scored_text: Whether the method learned from the training text, of which the
            scored text is a part: then the score says nothing about other texts.
    """

    name: str
    loss_nats: float | None
    perplexity: float | None
    bits_per_character: float | None
    bits_per_byte: float | None
    fitted_on_the_scored_text: bool = False


def score_baselines(
    train_ids: Ids,
    ids: Ids,
    *,
    vocabulary_size: int,
    records: bool,
    text_bytes: bytes,
    train_bytes: bytes | None = None,
    restoration: Restoration = Restoration(),  # noqa: B008  # It is frozen.
) -> list[Baseline]:
    """Score a text without a network.

    Args:
        train_ids: Training text, (tokens,).
        ids: Text to score, (tokens,), by the same tokenizer.
        vocabulary_size: Number of ids.
        records: Whether contexts end at <EOS>.
        text_bytes: Original text to score: the input of the compressors, and the unit of bits.
        train_bytes: Original training text. With it, lzma is also measured after the training
            text: as the size of both together minus the size of the training text, of which its
            dictionary holds the last 64 MiB. bz2 and zlib would not remember the training text:
            their blocks have 900 kB and 32 kB.
        restoration: Cost of restoring the text from its tokens.

    Raises:
        CorpusError: The text has no token.
    """
    require_tokens(ids)
    counts = Counts(
        tokens=len(ids),
        unknown=int(np.count_nonzero(ids == UNK)),
        characters=count_characters(text_bytes),
        bytes=len(text_bytes),
    )
    train_counts = count_ids(train_ids, vocabulary_size).tolist()
    ngrams = KneserNey(train_ids, ORDER, vocabulary_size, records=records)
    mode: Mode = "records" if records else "stream"
    is_known = shared_fraction(ids, train_ids, mode=mode) >= SAME_TEXT
    losses = {
        "unigram, add one": unigram_loss_nats(train_counts, ids),
        f"Kneser-Ney {ORDER}-gram": -float(ngrams.log_probabilities(ids).mean()),
    }
    learned = [_of_model(name, loss, counts, restoration) for name, loss in losses.items()]
    sizes = {f"{name}, alone": len(compress(text_bytes)) for name, compress in _COMPRESSORS.items()}
    compressors = [_of_compressor(name, size, counts) for name, size in sizes.items()]
    if train_bytes is not None:
        name = f"{_LZMA}, primed with the training text"
        primed = _of_compressor(name, _primed_size(train_bytes, text_bytes), counts)
        compressors.append(replace(primed, fitted_on_the_scored_text=is_known))
    return [
        _of_model("uniform over the vocabulary", math.log(vocabulary_size), counts, restoration),
        *(replace(baseline, fitted_on_the_scored_text=is_known) for baseline in learned),
        *compressors,
    ]


def unigram_loss_nats(train_counts: Sequence[int], ids: Ids) -> float:
    """Return nats per token of a text by the token frequencies of the training text.

    One is added to each count, so that no token has probability zero.

    Args:
        train_counts: Number of occurrences of each id in the training text.
        ids: Text to score, (tokens,).
    """
    counts = np.array(train_counts, dtype=np.float64) + 1
    occurrences = count_ids(ids, len(counts))
    return float(-(occurrences * np.log(counts / counts.sum())).sum() / max(len(ids), 1))


def _of_model(name: str, loss_nats: float, counts: Counts, restoration: Restoration) -> Baseline:
    nats = loss_nats * counts.tokens
    return Baseline(
        name=name,
        loss_nats=loss_nats,
        perplexity=math.exp(loss_nats),
        bits_per_character=restoration.bits_per(counts.characters, nats),
        bits_per_byte=restoration.bits_per(counts.bytes, nats),
    )


def _of_compressor(name: str, size: int, counts: Counts) -> Baseline:
    return Baseline(
        name=name,
        loss_nats=None,
        perplexity=None,
        bits_per_character=8 * size / max(counts.characters, 1),
        bits_per_byte=8 * size / max(counts.bytes, 1),
    )


def _primed_size(train: bytes, text: bytes) -> int:
    """Return the number of bytes that a text adds to the compressed training text before it.

    Both are compressed without the container of .xz files, which is padded to a multiple of four
    bytes, so that a short text would add nothing.
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": _LZMA_PRESET}]
    in_dictionary = train[-max(_LZMA_DICTIONARY_BYTES - len(text), 1) :]
    before, both = (
        len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))
        for data in (in_dictionary, in_dictionary + text)
    )
    return both - before

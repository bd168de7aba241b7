"""What methods without a network score on a text: what a model must be better than to have learnt anything."""

import bz2
import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from charlm.data.tokenizer import UNK, Ids
from charlm.data.tokens import Counts, Tokens, count_ids
from charlm.data.utf8 import count_characters
from charlm.errors import CorpusError
from charlm.evaluation.adaptive.ngram import KneserNey
from charlm.evaluation.perplexity import unigram_loss_nats

ORDER = 5
_LZMA_PRESET = 9 | lzma.PRESET_EXTREME
_LZMA_REMEMBERS = 1 << 26  # Bytes; the dictionary of preset 9.
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "lzma, preset 9 extreme": lambda data: lzma.compress(data, preset=_LZMA_PRESET),
    "bz2, level 9": lambda data: bz2.compress(data, 9),
    "zlib, level 9": lambda data: zlib.compress(data, 9),
}


@dataclass(frozen=True)
class Baseline:
    """What one method scores on a text.

    Attributes:
        name: Of the method, with its settings.
        loss_nats: Nats per token, <EOS> included; None for a compressor, which knows no tokens.
        perplexity: The exponential of it.
        bits_per_character: Of the original text.
        bits_per_byte: Of its bytes.
    """

    name: str
    loss_nats: float | None
    perplexity: float | None
    bits_per_character: float
    bits_per_byte: float

    def to_json(self) -> dict[str, Any]:
        """Return the score as JSON's types."""
        return asdict(self)


def baselines(
    train_ids: Ids,
    ids: Ids,
    *,
    vocabulary_size: int,
    records: bool,
    text_bytes: bytes,
    train_bytes: bytes | None = None,
) -> list[Baseline]:
    """Score a text without a network.

    Args:
        train_ids: The training text, (tokens,).
        ids: The text to score, (tokens,), by the same tokenizer.
        vocabulary_size: All ids are smaller.
        records: Whether contexts end at <EOS>.
        text_bytes: The text to score as it was before tokenizing: what bits are counted by, and what compressors read.
        train_bytes: The training text likewise; with it lzma is also measured primed with it: as the size of both
            together less that of the training text alone, whose last 64 MiB it remembers. bz2 and zlib read blocks of
            900 kB and 32 kB and would not remember it.

    Raises:
        CorpusError: The text has no token.
    """
    if len(ids) == 0:
        raise CorpusError("the text to score has no token; give one that is not empty")
    counts = _counts(ids, text_bytes)
    train_counts = count_ids(train_ids, vocabulary_size).tolist()
    n_grams = KneserNey(train_ids, ORDER, vocabulary_size, records=records)
    losses = {
        "uniform over the vocabulary": math.log(vocabulary_size),
        "unigram, add one": unigram_loss_nats(train_counts, Tokens(ids, counts)),
        f"Kneser-Ney {ORDER}-gram": -float(n_grams.log_probabilities(ids).mean()),
    }
    sizes = {f"{name}, alone": len(compress(text_bytes)) for name, compress in _COMPRESSORS.items()}
    if train_bytes is not None:
        sizes["lzma, preset 9 extreme, primed with the training text"] = _primed_size(
            train_bytes, text_bytes
        )
    return [
        *(_of_model(name, loss_nats, counts) for name, loss_nats in losses.items()),
        *(_of_compressor(name, size, counts) for name, size in sizes.items()),
    ]


def _counts(ids: Ids, text: bytes) -> Counts:
    return Counts(
        tokens=len(ids),
        unknown=int(np.count_nonzero(ids == UNK)),
        characters=count_characters(text),
        bytes=len(text),
    )


def _of_model(name: str, loss_nats: float, counts: Counts) -> Baseline:
    bits = loss_nats * counts.tokens / math.log(2)
    return Baseline(
        name,
        loss_nats,
        math.exp(loss_nats),
        bits / max(counts.characters, 1),
        bits / max(counts.bytes, 1),
    )


def _of_compressor(name: str, size: int, counts: Counts) -> Baseline:
    return Baseline(
        name, None, None, 8 * size / max(counts.characters, 1), 8 * size / max(counts.bytes, 1)
    )


def _primed_size(train: bytes, text: bytes) -> int:
    """Return how many bytes longer the compressed training text grows when the text follows it."""
    remembered = train[-max(_LZMA_REMEMBERS - len(text), 1) :]
    compress = _COMPRESSORS["lzma, preset 9 extreme"]
    return len(compress(remembered + text)) - len(compress(remembered))

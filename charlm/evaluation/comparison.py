"""Scores of several models on the same text, and how sure their differences are.

Differences are told with an interval by the bootstrap over blocks of the text, which all models share (blocks:
Carlstein 1986; pairs of systems on the same pieces: Koehn 2004, "Statistical Significance Tests for Machine
Translation Evaluation"; percentiles: Efron & Tibshirani 1993, chapter 13). The interval knows of the choice of the
text, not of the chance in training: another seed is another model.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import EOS, Ids, Tokenizer
from charlm.data.utf8 import strip_line_end
from charlm.errors import CharlmError
from charlm.evaluation.adaptive.interpolation import Floats

BLOCK_CHARACTERS, RESAMPLES, CONFIDENCE = 1000, 2000, 0.95
_CELLS_AT_ONCE = 1 << 22

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Compared:
    """One model's score on the text.

    Attributes:
        run: Its folder.
        bits_per_character: All nats / (ln 2 x characters of the text): what compares across tokenizers.
        bits_per_byte: The same by UTF-8 bytes.
        loss_nats: Nats per token.
        perplexity: The exponential of it; it compares where the tokens are the same.
        tokens: Predicted, each once.
        unknown_share: Share of tokens that are <UNK>: the cheaper the text, the more there are.
        parameters: Of the model.
        step: Optimisation steps taken.
        training_seconds: That training took up to that step.
        seconds: That scoring took.
        tokens_per_second: While scoring.
        characters_per_second: While scoring.
        settings: Checkpoint, level, mode, direction, training seed, device.
    """

    run: str
    bits_per_character: float
    bits_per_byte: float
    loss_nats: float
    perplexity: float
    tokens: int
    unknown_share: float
    parameters: int
    step: int
    training_seconds: float
    seconds: float
    tokens_per_second: float
    characters_per_second: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Bits per character of a run less those of another: negative where it is better.

    Attributes:
        run: The one.
        against: The other.
        bits_per_character: The difference on the whole text.
        low: Of the interval; None where the text is too short for two blocks.
        high: Of the interval.
    """

    run: str
    against: str
    bits_per_character: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """Scores side by side.

    Attributes:
        runs: In the order given.
        differences: Of each run but the first against the first.
        settings: Text, characters, blocks, resamples, confidence, seed, precision, version.
    """

    runs: list[Compared]
    differences: list[Difference]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON's types."""
        return asdict(self)


def block_of_lines(lines: Sequence[str], characters: int = BLOCK_CHARACTERS) -> Integers:
    """Return the block that each line is in, (lines,): whole lines, gathered until a block has so many characters.

    What is left over at the end belongs to the last block.

    >>> block_of_lines(["ab", "cd", "ef", "gh", "i"], 4).tolist()
    [0, 0, 1, 1, 1]
    """
    found, block, size = [], 0, 0
    for line in lines:
        found.append(block)
        size += len(line)
        if size >= characters:
            block, size = block + 1, 0
    return np.minimum(np.array(found, dtype=np.int64), max(block - 1, 0))


def nats_of_lines(
    ids: Ids, log_p: Floats, tokenizer: Tokenizer, lines: Sequence[str], *, records: bool
) -> Floats:
    """Return the nats that a model paid for each line of a text, (lines,).

    No token reaches over a line's end, whatever the tokenizer, so that lines are the same text to all models.

    Args:
        ids: The text, (tokens,).
        log_p: The natural logarithm of what the model gave each token, (tokens,).
        tokenizer: The model's.
        lines: The text, by lines.
        records: Whether the model reads records: it does not see empty lines.

    Raises:
        CharlmError: The tokens do not have the lines of the text: no token of the model stands for a line's end.
    """
    by_eos = records or tokenizer.separates_by_space
    at_end = ids == (EOS if by_eos else _newline(tokenizer))
    line = np.cumsum(at_end) - at_end
    if not by_eos:  # An <EOS> after a line's end belongs to that line.
        line[1:] -= (ids[1:] == EOS) & at_end[:-1]
    seen = [number for number, one in enumerate(lines) if not records or strip_line_end(one)]
    if (int(line[-1]) + 1 if len(line) else 0) != len(seen):
        raise CharlmError(
            f"the text has {len(seen):,} lines and the tokens of one model have {int(line.max(initial=-1)) + 1:,}, so "
            "that its blocks cannot be paired; compare models that know the line's end"
        )
    found = np.zeros(len(lines))
    np.add.at(found, np.array(seen, dtype=np.int64)[line], -log_p)
    return found


def difference_intervals(
    nats: Floats,
    characters: Floats,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> list[tuple[float, float] | None]:
    """Return an interval of each model's bits per character less the first's, by the bootstrap over blocks.

    Blocks are drawn with replacement, the same ones for all models; a resample scores its nats over its characters.

    Args:
        nats: (models, blocks).
        characters: (blocks,).
        seed: Of the draws.
        resamples: How many texts to draw.
        confidence: Share of them that the interval holds.

    Returns:
        Low and high for each model but the first; None where there are fewer than two blocks.
    """
    count = len(characters)
    if count < 2:
        return [None] * (len(nats) - 1)
    random = np.random.default_rng(seed)
    found = []
    at_once = max(1, _CELLS_AT_ONCE // count)
    for first in range(0, resamples, at_once):
        size = min(at_once, resamples - first)
        drawn = random.multinomial(
            count, np.full(count, 1 / count), size=size
        )  # (resamples, blocks)
        found.append(
            (drawn @ (nats[1:] - nats[:1]).T) / (drawn @ characters)[:, None] / math.log(2)
        )
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def differences(
    runs: Sequence[Compared], nats: Floats, characters: Floats, *, seed: int
) -> list[Difference]:
    """Return the difference of each run from the first; arguments as for `difference_intervals`."""
    intervals = difference_intervals(nats, characters, seed=seed)
    return [
        Difference(
            one.run,
            runs[0].run,
            one.bits_per_character - runs[0].bits_per_character,
            *(interval or (None, None)),
        )
        for one, interval in zip(runs[1:], intervals, strict=True)
    ]


def _newline(tokenizer: Tokenizer) -> int:
    """Return the id of a line's end, -1 where there is none."""
    return tokenizer.token_bytes.index(b"\n") if b"\n" in tokenizer.token_bytes else -1

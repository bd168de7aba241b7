"""Scores of several models on the same text, with confidence intervals of their differences.

The intervals come from the bootstrap over blocks of the text, which all models share (blocks:
Carlstein 1986; pairs of systems on the same pieces: Koehn 2004, "Statistical Significance Tests for
Machine Translation Evaluation"; percentiles: Efron & Tibshirani 1993, chapter 13). They cover the
choice of the text, not the randomness of training: another seed is another model.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from charlm.data.spelling import Restoration
from charlm.data.tokenizer import EOS, Ids, Tokenizer
from charlm.data.tokens import Tokens
from charlm.data.utf8 import split_lines, strip_line_end
from charlm.errors import CharlmError, CheckpointError
from charlm.evaluation.perplexity import require_tokens
from charlm.evaluation.static_model import Floats, Integers, of_trained
from charlm.evaluation.text_files import decode_utf8, read_text_file
from charlm.model.language_model import count_parameters
from charlm.storage.results import Result
from charlm.trained_model import (
    TrainedModel,
    encode_string,
    original_bytes,
    provenance,
    restoration_of_string,
    training_texts,
)
from charlm.version import VERSION

if TYPE_CHECKING:
    from charlm.data.cards import Part

BLOCK_CHARACTERS = 1000
_MIN_BLOCKS = 20  # A short text has smaller blocks, so that there are about this many.
RESAMPLES = 2000
CONFIDENCE = 0.95
_MAX_CELLS = 1 << 22  # Resamples x blocks drawn together.
_MAX_EXPONENT = 700.0  # exp(700) is still a finite number.


@dataclass(frozen=True)
class Compared(Result):
    """The score of one model on the text.

    Attributes:
        run: Run folder.
        bits_per_character: Total nats / (ln 2 x characters of the text), comparable across
            tokenizers: the total includes `restoration_nats`.
        bits_per_byte: Total nats / (ln 2 x UTF-8 bytes of the text).
        loss_nats: Nats per token.
        perplexity: exp(loss_nats), comparable between runs with the same tokens.
        tokens: Number of predicted tokens; each is predicted once.
        unknown_share: Fraction of tokens that are <UNK>. The more there are, the lower is the
            perplexity, and the higher are `restoration_nats`.
        parameters: Number of parameters of the model.
        step: Number of optimization steps.
        training_seconds: Training time up to that step.
        seconds: Time of scoring.
        tokens_per_second: Tokens scored per second.
        characters_per_second: Characters scored per second.
        settings: Checkpoint, tokenizer level, mode, direction, training seed, device and so on.
        restoration_nats: Nats of what the tokens leave out: the spelling of each <UNK>, capital
            letters and spaces.
        token_bits_per_character: Bits of the tokens alone / characters of the text.
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
    restoration_nats: float = 0.0
    token_bits_per_character: float | None = None


@dataclass(frozen=True)
class Difference(Result):
    """Bits per character of a run minus those of another; negative if the run is better.

    Attributes:
        run: Run folder.
        against: Run folder of the other run.
        bits_per_character: Difference on the whole text.
        low: Lower end of the confidence interval; None if the text has fewer than two blocks.
        high: Upper end of the confidence interval, or None.
    """

    run: str
    against: str
    bits_per_character: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison(Result):
    """Scores of several runs.

    Attributes:
        runs: Scores in the order of the runs.
        differences: Difference of each run but the first from the first.
        settings: Text, characters, blocks, resamples, confidence, seed, precision, version.
    """

    runs: list[Compared]
    differences: list[Difference]
    settings: dict[str, Any]


class _Scored(NamedTuple):
    """The score of a model, and the nats that each line of the text costs it, (lines,)."""

    score: Compared
    nats: Floats


def compare(
    models: Sequence[TrainedModel],
    text: str | None = None,
    *,
    path: str | Path | None = None,
    split: "Part" = "valid",
    block_characters: int | None = None,
    seed: int = 1,
) -> Comparison:
    """Score models on the same text, with a confidence interval of each difference from the first.

    Args:
        models: Models with any tokenizers.
        text: String to score.
        path: File to score, instead of `text`; `-` is standard input.
        split: Part of the first model's own corpus to score, if neither of the two is given.
        block_characters: Least number of characters in a block of the bootstrap; a block consists
            of whole lines. None means 1000, or a twentieth of a short text.
        seed: Seed of the bootstrap.

    Raises:
        CharlmError: The text cannot be read or has no token, or a model reads in both directions
            or has no token for a line end.
    """
    if len(models) < 2:
        raise CharlmError(
            f"a comparison needs two runs at least, got {len(models)}; name another run folder"
        )
    name = "a string"
    if text is None:
        name = split if path is None else str(path)
        text = _read_text(models[0], path, split)
    lines = split_lines(text)
    scored = [_score_lines(model, text, lines) for model in models]
    if block_characters is None:
        block_characters = max(1, min(BLOCK_CHARACTERS, len(text) // _MIN_BLOCKS))
    starts = np.flatnonzero(np.diff(block_of_lines(lines, block_characters), prepend=-1))
    lengths = np.array([len(line) for line in lines], dtype=np.float64)
    runs = [model.score for model in scored]
    return Comparison(
        runs=runs,
        differences=differences(
            runs,
            nats=np.add.reduceat(np.stack([model.nats for model in scored]), starts, axis=1),
            characters=np.add.reduceat(lengths, starts),
            seed=seed,
        ),
        settings={
            "text": name,
            "of": str(models[0].folder),
            "characters": len(text),
            "blocks": len(starts),
            "block_characters": block_characters,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "seed": seed,
            "precision": "fp32",
            "version": VERSION,
        },
    )


def block_of_lines(lines: Sequence[str], characters: int = BLOCK_CHARACTERS) -> Integers:
    """Return the block of each line, (lines,): consecutive lines of at least `characters` together.

    Lines that are left over at the end belong to the last block.

    >>> block_of_lines(["ab", "cd", "ef", "gh", "i"], 4).tolist()
    [0, 0, 1, 1, 1]
    """
    blocks = []
    block = size = 0
    for line in lines:
        blocks.append(block)
        size += len(line)
        if size >= characters:
            block += 1
            size = 0
    return np.minimum(np.array(blocks, dtype=np.int64), max(block - 1, 0))


def nats_of_lines(
    ids: Ids, log_p: Floats, tokenizer: Tokenizer, lines: Sequence[str], *, records: bool
) -> Floats:
    """Return the nats that each line of a text costs a model, (lines,).

    No token of any tokenizer crosses the end of a line, so lines are the same text to all models.

    Args:
        ids: The text, (tokens,).
        log_p: Natural logarithm of each token's probability, (tokens,).
        tokenizer: Tokenizer of the model.
        lines: Lines of the text.
        records: Whether the model reads lines as records, so that it does not see empty lines.

    Raises:
        CharlmError: The tokens have fewer lines than the text: no token is a line end.
    """
    ends_by_eos = records or tokenizer.separates_by_space
    is_end = ids == (EOS if ends_by_eos else _newline_id(tokenizer))
    token_lines = np.cumsum(is_end) - is_end
    if not ends_by_eos:  # An <EOS> after a line end belongs to that line.
        token_lines[1:] -= (ids[1:] == EOS) & is_end[:-1]
    read = _lines_read(lines, records)
    num_token_lines = int(token_lines[-1]) + 1 if len(ids) else 0
    if num_token_lines != len(read):
        raise CharlmError(
            f"the text has {len(read):,} lines and the tokens of one model have "
            f"{num_token_lines:,}, so that blocks cannot be paired; compare models whose "
            "tokenizers know the line end"
        )
    nats = np.zeros(len(lines))
    np.add.at(nats, read[token_lines], -log_p)
    return nats


def _lines_read(lines: Sequence[str], records: bool) -> Integers:
    """Return the number of each line that a model reads: in records mode, not of empty ones."""
    read = [number for number, line in enumerate(lines) if not records or strip_line_end(line)]
    return np.array(read, dtype=np.int64)


def differences(
    runs: Sequence[Compared], nats: Floats, characters: Floats, *, seed: int
) -> list[Difference]:
    """Return the difference of each run from the first; arguments as for `difference_intervals`."""
    intervals = difference_intervals(nats, characters, seed=seed)
    return [
        Difference(
            run=run.run,
            against=runs[0].run,
            bits_per_character=run.bits_per_character - runs[0].bits_per_character,
            low=None if interval is None else interval[0],
            high=None if interval is None else interval[1],
        )
        for run, interval in zip(runs[1:], intervals, strict=True)
    ]


def difference_intervals(
    nats: Floats,
    characters: Floats,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> list[tuple[float, float] | None]:
    """Return bootstrap intervals of each model's bits per character minus those of the first.

    Blocks are drawn with replacement, the same ones for all models. The score of a resample is its
    nats divided by its own characters.

    Args:
        nats: Nats of each block, (models, blocks).
        characters: Number of characters of each block, (blocks,).
        seed: Seed of the draws.
        resamples: Number of resamples.
        confidence: Fraction of resamples inside the interval.

    Returns:
        Lower and upper end for each model but the first; None if there are fewer than two blocks.
    """
    num_blocks = len(characters)
    if num_blocks < 2:
        return [None] * (len(nats) - 1)
    random = np.random.default_rng(seed)
    batch = max(1, _MAX_CELLS // num_blocks)
    parts = []
    for first in range(0, resamples, batch):
        size = min(batch, resamples - first)
        # How often each resample has each block, (resamples, blocks).
        counts = random.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), size=size)
        nats_difference = counts @ (nats[1:] - nats[:1]).T
        parts.append(nats_difference / (counts @ characters)[:, None] / math.log(2))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _newline_id(tokenizer: Tokenizer) -> int:
    """Return the id of the line feed, -1 if there is none."""
    return tokenizer.token_bytes.index(b"\n") if b"\n" in tokenizer.token_bytes else -1


def _read_text(trained: TrainedModel, path: str | Path | None, split: "Part") -> str:
    """Return the text of a file, or of a part of the model's own corpus as its file has it."""
    if path is not None:
        return read_text_file(path, remedy="name a file of text")
    if split not in training_texts(trained):
        raise CheckpointError(
            f"{trained.folder}: the corpus has no {split} part; name a text to score"
        )
    name = f"{trained.folder}: the {split} part"
    return decode_utf8(original_bytes(trained, split=split), name)


def _score_lines(trained: TrainedModel, text: str, lines: Sequence[str]) -> _Scored:
    """Score a text and its lines; separators between documents are read as text."""
    tokens = encode_string(trained, text, splits_documents=False)
    require_tokens(tokens.ids)
    restoration = restoration_of_string(trained, text, splits_documents=False)
    if restoration.problem:
        raise CharlmError(
            f"{trained.folder}: its bits per character cannot be compared: {restoration.problem}, "
            "and what that costs is not known; compare runs without it"
        )
    started = time.perf_counter()
    log_p = of_trained(trained).log_probabilities(tokens.ids)
    seconds = max(time.perf_counter() - started, 1e-9)
    nats = nats_of_lines(tokens.ids, log_p, trained.tokenizer, lines, records=trained.reads_lines)
    if len(restoration.nats_of_lines):
        nats[_lines_read(lines, trained.reads_lines)] += restoration.nats_of_lines
    return _Scored(_summarize(trained, text, tokens, log_p, restoration, seconds), nats)


def _summarize(
    trained: TrainedModel,
    text: str,
    tokens: Tokens,
    log_p: Floats,
    restoration: Restoration,
    seconds: float,
) -> Compared:
    token_nats = -float(log_p.sum())
    restoration_nats = float(restoration.nats_of_lines.sum())
    nats = token_nats + restoration_nats
    loss_nats = token_nats / len(log_p)
    state = trained.origin.state
    return Compared(
        run=str(trained.folder),
        bits_per_character=nats / math.log(2) / len(text),
        bits_per_byte=nats / math.log(2) / len(text.encode()),
        loss_nats=loss_nats,
        perplexity=math.exp(min(loss_nats, _MAX_EXPONENT)),
        tokens=len(log_p),
        unknown_share=tokens.counts.unknown_share,
        parameters=sum(size for _, _, size in count_parameters(trained.model)),
        step=state["step"],
        training_seconds=round(state["seconds"], 3),
        seconds=round(seconds, 3),
        tokens_per_second=len(log_p) / seconds,
        characters_per_second=len(text) / seconds,
        settings=provenance(trained) | {"precision": "fp32"},
        restoration_nats=restoration_nats,
        token_bits_per_character=token_nats / math.log(2) / len(text),
    )

"""Scores of several models on the same text, with confidence intervals of their differences.

The intervals are those of `charlm.evaluation.intervals` over long blocks of the text, which all
models share (pairs of systems on the same pieces: Koehn 2004, "Statistical Significance Tests for
Machine Translation Evaluation"). They cover the choice of the text, not the randomness of training:
another seed is another model.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from charlm.data.sources import check_size
from charlm.data.spelling import Restoration, restoration_of_line_ends
from charlm.data.tokens import Tokens
from charlm.errors import CharlmError, OptionError, counted, refuse_beside
from charlm.evaluation.intervals import BLOCKS, CONFIDENCE, ratio_interval
from charlm.evaluation.lines import (
    PIECE_CHARACTERS,
    Pieces,
    cut_into_pieces,
    line_ends_of_all,
    lines_read,
    lines_to_score,
    nats_of_lines,
    separator_of_all,
)
from charlm.evaluation.static_model import (
    Floats,
    of_trained,
    require_one_probability,
    require_tokens,
)
from charlm.evaluation.text_files import decode_utf8, read_text_file
from charlm.model.language_model import count_parameters
from charlm.model_texts import corpus_part, open_string, original_bytes, restoration_to_score
from charlm.storage.results import Result
from charlm.storage.tables import format_number, format_settings
from charlm.trained_model import TrainedModel, provenance, require_language_model
from charlm.version import VERSION

if TYPE_CHECKING:
    from charlm.data.cards import Part

# In shorter texts, measured coverage was below 90 % (docs/lab/2026-11-26.md).
SHORT_CHARACTERS = 200_000
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


_COLUMNS: dict[str, Callable[[Compared], str]] = {
    "bits/char": lambda run: f"{run.bits_per_character:.4f}",
    "tokens alone": lambda run: format_number(run.token_bits_per_character),
    "nats/token": lambda run: f"{run.loss_nats:.4f}",
    "perplexity": lambda run: format_number(run.perplexity),
    "tokens": lambda run: f"{run.tokens:,}",
    "<UNK>": lambda run: f"{run.unknown_share:.2%}",
    "parameters": lambda run: f"{run.parameters:,}",
    "steps": lambda run: f"{run.step:,}",
    "trained, s": lambda run: f"{run.training_seconds:,.1f}",
    "chars/s": lambda run: f"{run.characters_per_second:,.0f}",
    "level": lambda run: str(run.settings["level"]),
}


@dataclass(frozen=True)
class Difference(Result):
    """Bits per character of a run minus those of another; negative if the run is better.

    Attributes:
        run: Run folder.
        against: Run folder of the other run.
        bits_per_character: Difference on the whole text.
        low: Lower end of the confidence interval; None if the text has fewer than two pieces.
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
        settings: Text, characters, number of pieces (`blocks`), confidence, precision, version.
        assumption: What the intervals assume.
        warnings: What makes the comparison unequal, one sentence each.
    """

    runs: list[Compared]
    differences: list[Difference]
    settings: dict[str, Any]
    assumption: str = ""
    warnings: tuple[str, ...] = ()

    def lines(self, max_width: int | None = None) -> Iterator[str]:
        """Yield the tables of scores and differences, and the settings.

        Args:
            max_width: Maximum width of a line of the scores, whose columns are then divided into
                several tables; None for no limit.
        """
        width = max(24, *(len(run.run) for run in self.runs))
        yield from self._score_tables(width, max_width)
        yield ""
        yield from self._difference_table(width)
        unused = {"resamples", "seed"}  # An earlier method used them; only the JSON keeps them.
        if any(row.low is not None for row in self.differences):
            yield f"The intervals assume that {self.assumption}."
        else:
            unused |= {"blocks", "block_characters", "confidence"}
        shown = {name: value for name, value in self.settings.items() if name not in unused}
        yield format_settings(shown)

    def _score_tables(self, width: int, max_width: int | None) -> Iterator[str]:
        columns = list(_COLUMNS.items())
        while columns:
            count = len(columns) if max_width is None else max(1, (max_width - width) // 13)
            part, columns = columns[:count], columns[count:]
            yield " " * width + "".join(f"{name:>13}" for name, _ in part)
            for run in self.runs:
                yield f"{run.run:<{width}}" + "".join(f"{cell(run):>13}" for _, cell in part)
            if columns:
                yield ""

    def _difference_table(self, width: int) -> Iterator[str]:
        heading = f"against {self.runs[0].run}"
        width = max(width, len(heading))
        yield f"{heading:<{width}}{'bits/char':>13}{'95 % from':>13}{'to':>13}"
        for row in self.differences:
            ends = ["-" if end is None else f"{end:+.4f}" for end in (row.low, row.high)]
            interval = "".join(f"{end:>13}" for end in ends)
            yield f"{row.run:<{width}}{row.bits_per_character:>+13.4f}{interval}"

    def __str__(self) -> str:
        """Return the lines, at most 110 characters wide, and the warnings as one text."""
        return "\n".join([*self.lines(110), *(f"warning: {text}" for text in self.warnings)])


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
        block_characters: Least number of characters in a piece of whole lines; the intervals
            collect pieces into 3, 4, 8 and 16 blocks. None means 1000, or a 64th of a short text.
        seed: Without effect; it is accepted because earlier intervals were drawn at random.

    Raises:
        OptionError: Both a string and a file are given, or `block_characters` is below 1.
        CharlmError: The text cannot be read or has no token, there are fewer than two models, or
            one of them was trained on pairs, reads in both directions or has no token for a line
            end.
    """
    require_models(models)
    if block_characters is not None and block_characters < 1:
        raise OptionError("block_characters", "must be at least 1", value=block_characters)
    name, text = _named_text(models[0], text, path, split)
    block_characters = block_characters or _piece_characters(len(text))
    runs, pieces = _score_pieces(models, text, block_characters, name=name)
    settings = {
        "text": name,
        "of": str(models[0].folder),
        "characters": len(text),
        "blocks": len(pieces.characters),
        "block_characters": block_characters,
        "resamples": 0,
        "confidence": CONFIDENCE,
        "seed": seed,
        "precision": "fp32",
        "version": VERSION,
    }
    return Comparison(
        runs=runs,
        differences=_differences(runs, pieces.nats, pieces.characters),
        settings=settings,
        assumption=_assumption(len(text)),
        warnings=tuple(_budget_warnings(models)),
    )


def _score_pieces(
    models: Sequence[TrainedModel], text: str, block_characters: int, *, name: str
) -> tuple[list[Compared], Pieces]:
    """Return the score of each model, and what pieces of the text cost them."""
    separator = separator_of_all(models)
    lines = lines_to_score(text, line_ends_of_all(models), separator)
    scored = [
        _score_lines(model, text, lines, splits_documents=separator is not None, name=name)
        for model in models
    ]
    nats = np.stack([model.nats for model in scored])
    return [model.score for model in scored], cut_into_pieces(lines, nats, block_characters)


def _piece_characters(characters: int) -> int:
    """Return the least number of characters in a piece of a text: fewer in a short text."""
    return max(1, min(PIECE_CHARACTERS, characters // (4 * max(BLOCKS))))


def _named_text(
    first: TrainedModel, text: str | None, path: str | Path | None, split: "Part"
) -> tuple[str, str]:
    """Return the name of the text to score, and the text; arguments as for `compare`."""
    if text is not None:
        refuse_beside("text", path=path)
    name = "a string"
    if text is None:
        name = split if path is None else str(path)
        text = _read_text(first, path, split)
    check_size(len(text), name)
    return name, text


def require_models(models: Sequence[TrainedModel]) -> None:
    """Raise CharlmError if there are fewer than two models, or one cannot score single tokens."""
    if len(models) < 2:
        raise CharlmError(
            f"a comparison needs two runs at least, got {len(models)}; name another run folder"
        )
    for model in models:
        require_language_model(model)
        require_one_probability(model.model, model.folder)


def _differences(runs: Sequence[Compared], nats: Floats, characters: Floats) -> list[Difference]:
    """Return the difference of each run from the first; arguments as for `difference_intervals`."""
    intervals = difference_intervals(nats, characters)
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


def difference_intervals(nats: Floats, characters: Floats) -> list[tuple[float, float] | None]:
    """Return 95 % intervals of each model's bits per character minus those of the first.

    Args:
        nats: Nats of each piece of the text, in order, (models, pieces).
        characters: Number of characters of each piece, (pieces,).

    Returns:
        Lower and upper end for each model but the first; None if there are fewer than two pieces.
    """
    bits = (nats[1:] - nats[:1]) / math.log(2)
    return [ratio_interval(row, characters) for row in bits]


def _budget_warnings(models: Sequence[TrainedModel]) -> list[str]:
    """Return a warning if the models were trained for different times, steps or passes."""
    budgets = [_budget_of(model) for model in models]
    if len(set(budgets)) == 1:
        return []
    listed = "; ".join(
        f"{model.folder} {budget}" for model, budget in zip(models, budgets, strict=True)
    )
    return [f"the runs had different training budgets: {listed}"]


def _budget_of(model: TrainedModel) -> str:
    """Return the budget of a training, with the tokens of a step if the budget counts steps."""
    training = model.config.training
    unit, amount = model.budget
    budget = counted(amount, unit.removesuffix("s"))
    if unit != "steps":
        return budget
    return f"{budget} of {training.batch_size} x {training.window} tokens"


def _assumption(characters: int) -> str:
    """Return what the intervals assume, and whether the text is too short for that."""
    assumption = (
        "the thirds of the text are independent samples of the texts of interest, and do not "
        "cover the choice of the training seed"
    )
    if characters >= SHORT_CHARACTERS:
        return assumption
    return (
        f"{assumption}; below {SHORT_CHARACTERS:,} characters, as here, they are often too narrow"
    )


def _read_text(trained: TrainedModel, path: str | Path | None, split: "Part") -> str:
    """Return the text of a file, or of a part of the model's own corpus as its file has it."""
    if path is not None:
        return read_text_file(path, remedy="name a file of text")
    name = f"{trained.folder}: the {split} part"
    return decode_utf8(original_bytes(corpus_part(trained, split)), name)


def _score_lines(
    trained: TrainedModel, text: str, lines: Sequence[str], *, splits_documents: bool, name: str
) -> _Scored:
    """Score a text and its lines; `name` is the place in error messages."""
    with open_string(trained, text, splits_documents=splits_documents, name=name) as opened:
        tokens = opened.tokens
        require_tokens(tokens.ids)
        restoration = restoration_to_score(trained, opened.source, tokens)
    if restoration.problem:
        raise CharlmError(
            f"{trained.folder}: its bits per character cannot be compared: {restoration.problem}, "
            "and what that costs is not known; compare runs without it"
        )
    if trained.reads_lines:
        restoration += restoration_of_line_ends(lines)
    started = time.perf_counter()
    log_p = of_trained(trained).log_probabilities(tokens.ids)
    seconds = max(time.perf_counter() - started, 1e-9)
    try:
        nats = nats_of_lines(
            tokens.ids, log_p, trained.tokenizer, lines, records=trained.reads_lines
        )
    except CharlmError as error:
        raise CharlmError(f"{trained.folder}: {error}") from None
    if len(restoration.nats_of_lines):
        nats[lines_read(lines, trained.reads_lines)] += restoration.nats_of_lines
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

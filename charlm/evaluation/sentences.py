"""Log-probabilities of sentences, each read by itself: scores for rankings and minimal pairs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from charlm.data.listing import shown_name
from charlm.data.tokenizer import EOS, EOS_TEXT, UNK, Tokenizer
from charlm.data.utf8 import split_lines, strip_line_end
from charlm.errors import CharlmError, CorpusError, quote, refuse_beside
from charlm.evaluation.static_model import StaticModel
from charlm.evaluation.text_files import read_text_file
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import sequence_log_probabilities
from charlm.storage.results import Result
from charlm.storage.tables import format_settings
from charlm.trained_model import TrainedModel, provenance, require_language_model


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: Number of the line, from 1.
        text: The line without its end.
    """

    number: int
    text: str


@dataclass(frozen=True)
class TokenScore(Result):
    """The probability of one token of a sentence.

    Attributes:
        token: Id of the token.
        text: Text of the token.
        probability: Probability after the tokens before it.
        log_probability: Natural logarithm of the probability.
    """

    token: int
    text: str
    probability: float
    log_probability: float


@dataclass(frozen=True)
class Sentence(Result):
    """The score of a sentence.

    Attributes:
        line: Number of its line in the file, from 1.
        text: The sentence.
        log_probability: Log-probability of all its tokens, in nats; for a model that reads in both
            directions, the mean of both.
        log_probability_per_token: log_probability / tokens.
        tokens: Number of predicted tokens, including <EOS> where it ends a line.
        unknown: Number of tokens that are <UNK>.
        explained: Score of each token, or None if it was not asked for.
    """

    line: int
    text: str
    log_probability: float
    log_probability_per_token: float
    tokens: int
    unknown: int
    explained: list[TokenScore] | None = None

    @property
    def is_mostly_unknown(self) -> bool:
        """Whether more than half of the tokens are <UNK>."""
        return 2 * self.unknown > self.tokens


@dataclass(frozen=True)
class Sentences(Result):
    """Scores of sentences.

    Attributes:
        sentences: Score of each line that is not empty, in the order of the lines.
        settings: Run, tokenizer level, how a sentence is read, version and so on.
    """

    sentences: list[Sentence]
    settings: dict[str, Any]

    def ranked(self) -> list[Sentence]:
        """Return the sentences, the most probable first; ties keep the order of their lines."""
        return sorted(self.sentences, key=lambda sentence: -sentence.log_probability)

    def lines(self) -> Iterator[str]:
        """Yield a row for each sentence, its explained tokens and the settings."""
        yield f"{'line':>6}{'log P':>12}{'per token':>12}{'tokens':>8}  sentence"
        for row in self.sentences:
            unknown = f"  ({row.unknown} <UNK>)" if row.unknown else ""
            scores = f"{row.log_probability:>12.4f}{row.log_probability_per_token:>12.4f}"
            yield f"{row.line:>6}{scores}{row.tokens:>8}  {row.text}{unknown}"
            for token in row.explained or []:
                scores = f"{token.log_probability:>12.4f}{token.probability:>12.2%}"
                yield f"{'':>6}{scores}{'':>8}  {quote(token.text)}"
        yield format_settings(self.settings)


def score_sentences(
    trained: TrainedModel,
    sentences: Sequence[str] | None = None,
    *,
    path: str | Path | None = None,
    explain: bool = False,
) -> Sentences:
    """Score sentences, each read by itself from the initial state.

    Args:
        trained: The model.
        sentences: Sentences to score.
        path: File of sentences, one per line, instead of `sentences`; `-` is standard input.
        explain: Whether to return the score of each token.

    Raises:
        CharlmError: There is no sentence, the file cannot be read, or `explain` is asked of a
            model that reads in both directions.
        OptionError: Both sentences and a file are given.
    """
    require_language_model(trained)
    lines = _lines_to_score(sentences, path)
    predicts_end = trained.writes_records or trained.tokenizer.separates_by_space
    scores = score_lines(
        trained.model,
        trained.tokenizer,
        lines,
        predicts_end=predicts_end,
        explain=explain,
        device=trained.device,
    )
    settings = {
        "precision": "fp32",
        "sentences": "given" if path is None else str(path),
        "end": "predicted" if predicts_end else "not predicted",
        "state": "zero at each sentence",
    }
    return Sentences(scores, provenance(trained) | settings)


def _lines_to_score(sentences: Sequence[str] | None, path: str | Path | None) -> list[Line]:
    """Return the given sentences, or those of a file."""
    if sentences:
        refuse_beside("sentences", path=path)
        given = [sentences] if isinstance(sentences, str) else sentences
        return [Line(number, text) for number, text in enumerate(given, start=1)]
    if path is None:
        raise CharlmError(
            "sentences: no sentence to score; give at least one, or a file with one per line"
        )
    return read_sentences(path)


def read_sentences(file: str | Path) -> list[Line]:
    """Read a UTF-8 file of sentences, one per line; empty lines are left out.

    Args:
        file: Path of the file; `-` is standard input.

    Raises:
        CorpusError: The file cannot be read, is not UTF-8, or has no sentence.
    """
    text = read_text_file(file, remedy="name a file with one sentence per line")
    lines = [
        Line(number, strip_line_end(line, "unicode"))
        for number, line in enumerate(split_lines(text, "unicode"), start=1)
        if line.strip()
    ]
    if not lines:
        raise CorpusError(f"{shown_name(file)}: has no sentence; write one per line")
    return lines


def score_lines(
    model: LanguageModel,
    tokenizer: Tokenizer,
    lines: Sequence[Line],
    *,
    predicts_end: bool,
    explain: bool,
    device: torch.device,
) -> list[Sentence]:
    """Score the sentence of each line.

    Args:
        model: Model on `device`, in evaluation mode.
        tokenizer: Tokenizer of the model; it reads unknown words and characters as <UNK>.
        lines: Sentences with the numbers of their lines.
        predicts_end: Whether <EOS> is predicted at the end of a sentence.
        explain: Whether to return the score of each token.
        device: Device of the model.

    Raises:
        CharlmError: `explain` is asked of a model that reads in both directions, which gives each
            token two probabilities.
    """
    sequences = [[*tokenizer.encode(line.text).tolist(), *([EOS] * predicts_end)] for line in lines]
    sums = sequence_log_probabilities(model, sequences, eos=EOS, device=device)
    num_directions = 2 if model.direction == "both" else 1
    return [
        Sentence(
            line=line.number,
            text=line.text,
            log_probability=total / num_directions,
            log_probability_per_token=total / num_directions / max(len(ids), 1),
            tokens=len(ids),
            unknown=ids.count(UNK),
            explained=_score_tokens(model, tokenizer, ids, device) if explain else None,
        )
        for line, ids, total in zip(lines, sequences, sums, strict=True)
    ]


def _score_tokens(
    model: LanguageModel, tokenizer: Tokenizer, ids: list[int], device: torch.device
) -> list[TokenScore]:
    log_probabilities = StaticModel(model, "stream", device).log_probabilities(np.array(ids))
    return [
        TokenScore(
            token=token,
            text=EOS_TEXT
            if token == EOS
            else tokenizer.token_bytes[token].decode(errors="replace"),
            probability=math.exp(log_p),
            log_probability=log_p,
        )
        for token, log_p in zip(ids, log_probabilities.tolist(), strict=True)
    ]

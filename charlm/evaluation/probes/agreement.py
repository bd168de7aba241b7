"""Subject-verb agreement over a distance: what a model remembers of the subject at the verb.

The measure of Linzen et al. 2016 (arXiv:1611.01368) on sentences of a small grammar instead of
Wikipedia, or on minimal pairs from a file, as in Marvin and Linzen 2018 (arXiv:1808.09031). A
minimal pair is a right sentence and a wrong one that differ in one word. The model is right if it
gives the right sentence the higher probability.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from charlm.data.builders.agreement import (
    MAX_NOUNS,
    MAX_PHRASES,
    AgreementSentence,
    agreement_sentences,
    capitalize,
)
from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.data.utf8 import split_lines, strip_line_end
from charlm.errors import CharlmError, CorpusError, OptionError, TokenizerError
from charlm.evaluation.text_files import decode_utf8
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import sequence_log_probabilities
from charlm.model_texts import training_texts
from charlm.storage.results import Result
from charlm.storage.tables import format_range, format_settings
from charlm.trained_model import TrainedModel, provenance, require_language_model

_MAX_PAIRS = 1_000_000  # A file has at most this number of pairs.
_MAX_LINE_BYTES = 1 << 20
# First and last distance of each row of the table by distance: about a phrase of 3 to 6 words
# each; None means no upper bound.
_DISTANCES: list[tuple[int, int | None]] = [
    (0, 0),
    (1, 3),
    (4, 6),
    (7, 9),
    (10, 12),
    (13, 16),
    (17, 20),
    (21, None),
]

Pair = tuple[str, str]  # The right sentence and the wrong one.
Judged = Sequence[tuple[AgreementSentence, bool]]  # Sentences, and whether the model is right.


@dataclass(frozen=True)
class Agreement(Result):
    """Accuracy of a model on minimal pairs.

    Attributes:
        accuracy: Fraction of pairs in which the right sentence is more probable; a tie is wrong.
        count: Number of pairs.
        unknown_pairs: Number of pairs whose sentences are the same tokens to the model: ties.
        unknown_share: Fraction of tokens that are <UNK>.
        by_distance: Accuracy by number of words between subject and verb: `distance_from`,
            `distance_to` (None means no upper bound), `count`, `accuracy`. Empty for pairs from a
            file, as are the next two.
        by_nouns: Accuracy by number of nouns between subject and verb: `nouns`, `count`,
            `accuracy`.
        by_attractors: Accuracy by number of those nouns whose number is not the subject's:
            `attractors`, `count`, `accuracy`.
        settings: What was compared, parameters of the grammar, seed, run, version and so on.
    """

    accuracy: float
    count: int
    unknown_pairs: int
    unknown_share: float
    by_distance: list[dict[str, Any]]
    by_nouns: list[dict[str, Any]]
    by_attractors: list[dict[str, Any]]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield the accuracy, in all and by distance, and the settings."""
        yield f"{'accuracy':<37} {self.count:>8,} pairs {self.accuracy:>7.1%}"
        if self.unknown_share or self.unknown_pairs:
            yield f"{'both sentences are the same tokens':<37} {self.unknown_pairs:>8,} pairs"
            yield f"{'tokens read as <UNK>':<37} {self.unknown_share:>22.1%}"
        tables = {
            "words from subject to verb": self.by_distance,
            "nouns between them": self.by_nouns,
            "nouns of the other number": self.by_attractors,
        }
        for title, rows in tables.items():
            for number, row in enumerate(rows):
                first = next(iter(row.values()))
                label = format_range(first, row.get("distance_to", first))
                heading = title if number == 0 else ""
                accuracy = f"{row['count']:>8,} pairs {row['accuracy']:>7.1%}"
                yield f"{heading:<26} {label:<10} {accuracy}"
        yield format_settings(self.settings)


@dataclass(frozen=True)
class _Judgments:
    """The model's answers to minimal pairs.

    Attributes:
        is_right: Whether the model is right about each pair.
        unknown_pairs: Number of pairs whose sentences are the same tokens.
        unknown_share: Fraction of tokens that are <UNK>.
    """

    is_right: list[bool]
    unknown_pairs: int
    unknown_share: float


def measure_agreement(
    trained: TrainedModel,
    pairs: str | Path | None = None,
    *,
    sentences: int = 2000,
    seed: int = 2,
    longest: int = 4,
    most_nouns: int = 3,
) -> Agreement:
    """Measure the accuracy of a model on minimal pairs.

    Args:
        trained: The model.
        pairs: File of minimal pairs, one per line: the right sentence, a tab, the wrong one. None
            draws sentences from the grammar of the corpus agreement.
        sentences: Number of sentences to draw, half of them with a plural subject. None of them is
            in the training text of the run.
        seed: Seed of the grammar's choices.
        longest: Largest number of phrases between subject and verb, of 3 to 6 words each; the
            corpus has at most 4.
        most_nouns: Largest number of nouns between subject and verb; the corpus has at most 3.

    Raises:
        CharlmError: The file has no pairs, a parameter is out of range, the model knows none of the
            verbs, or it was trained on pairs of sources and targets.
    """
    require_language_model(trained)
    context: dict[str, Any] = {"records": trained.writes_records, "device": trained.device}
    if pairs is not None:
        settings: dict[str, Any] = {"pairs": str(pairs)}
        agreement = score_pairs(trained.model, trained.tokenizer, read_pairs(pairs), **context)
    else:
        settings = {
            "sentences": sentences,
            "seed": seed,
            "longest": longest,
            "most_nouns": most_nouns,
        }
        seen = _training_sentences(trained)
        drawn, left_out = draw_sentences(
            sentences, seed=seed, longest=longest, most_nouns=most_nouns, seen=seen or frozenset()
        )
        settings["left_out_as_seen"] = None if seen is None else left_out
        agreement = score_verbs(trained.model, trained.tokenizer, drawn, **context)
    return replace(agreement, settings=provenance(trained) | settings | agreement.settings)


def draw_sentences(
    count: int, *, seed: int, longest: int, most_nouns: int, seen: Collection[str] = frozenset()
) -> tuple[list[AgreementSentence], int]:
    """Draw sentences in twos that differ only in the number of subject and verb.

    A model that ignores the subject is right about at most one of the two, so that its accuracy is
    at most 50 %.

    Args:
        count: Number of sentences, even.
        seed: Seed of the grammar's choices.
        longest: Largest number of phrases between subject and verb, 0 to 16.
        most_nouns: Largest number of nouns between subject and verb, 0 to 16.
        seen: Sentences to leave out: if one of the two is among them, so is the other.

    Returns:
        The sentences, singular and plural subjects in turn, and the number of those left out.

    Raises:
        OptionError: The number of sentences is odd or below 2, or another one is out of range.
        CorpusError: The grammar has too few sentences.
    """
    _check_numbers(count, longest=longest, most_nouns=most_nouns)
    # Each sentence that was seen removes at most one of the twos.
    singular, plural = (
        agreement_sentences(
            sentences=count // 2 + len(seen),
            seed=seed,
            longest=longest,
            most_nouns=most_nouns,
            subject_is_plural=is_plural,
        )
        for is_plural in (False, True)
    )
    drawn: list[AgreementSentence] = []
    left_out = 0
    for two in zip(singular, plural, strict=True):
        if any(sentence.text in seen for sentence in two):
            left_out += 2
        else:
            drawn += two
        if len(drawn) == count:
            break
    return drawn, left_out


def _check_numbers(count: int, *, longest: int, most_nouns: int) -> None:
    """Raise OptionError if a number is out of range; arguments as for `draw_sentences`."""
    if count < 2 or count % 2:
        problem = "must be even and at least 2, because each subject is singular and plural in turn"
        raise OptionError("sentences", problem, value=count)
    for name, value, most in (
        ("longest", longest, MAX_PHRASES),
        ("most_nouns", most_nouns, MAX_NOUNS),
    ):
        if not 0 <= value <= most:
            raise OptionError(name, f"must be from 0 to {most}", value=value)


def score_verbs(
    model: LanguageModel,
    tokenizer: Tokenizer,
    sentences: Sequence[AgreementSentence],
    *,
    records: bool,
    device: torch.device,
) -> Agreement:
    """Measure the accuracy of a model on the verbs of sentences.

    For a model that reads forward, the text up to the verb is compared, so that nothing after the
    verb counts. For the other models whole sentences are compared, because they read the text
    after the verb first.

    Args:
        model: Model on `device`.
        tokenizer: Tokenizer of the model.
        sentences: Sentences of `draw_sentences`.
        records: Whether <EOS> ends a whole sentence, as in training on records.
        device: Device of the model.

    Raises:
        TokenizerError: The model knows none of the verbs.
    """
    unknown_verbs = _unknown_verbs(tokenizer, sentences)
    is_whole = model.direction != "forward"
    pairs = [_pair_of(sentence, is_whole) for sentence in sentences]
    judgments = _judge(model, tokenizer, pairs, ends=records and is_whole, device=device)
    judged = list(zip(sentences, judgments.is_right, strict=True))
    return Agreement(
        **_accuracy(judgments.is_right),
        unknown_pairs=judgments.unknown_pairs,
        unknown_share=judgments.unknown_share,
        by_distance=_by_distance(judged),
        by_nouns=_by_number("nouns", lambda sentence: sentence.nouns, judged),
        by_attractors=_by_number("attractors", lambda sentence: sentence.attractors, judged),
        settings={
            "compared": _whole_sentences(records) if is_whole else "texts up to the verb",
            "unknown_verbs": unknown_verbs,
        },
    )


def score_pairs(
    model: LanguageModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    records: bool,
    device: torch.device,
) -> Agreement:
    """Measure the accuracy of a model on minimal pairs of whole sentences.

    Args:
        model: Model on `device`.
        tokenizer: Tokenizer of the model; it reads unknown words and characters as <UNK>.
        pairs: The right sentence and the wrong one of each pair.
        records: Whether <EOS> ends a sentence, as in training on records.
        device: Device of the model.
    """
    judgments = _judge(model, tokenizer, pairs, ends=records, device=device)
    return Agreement(
        **_accuracy(judgments.is_right),
        unknown_pairs=judgments.unknown_pairs,
        unknown_share=judgments.unknown_share,
        by_distance=[],
        by_nouns=[],
        by_attractors=[],
        settings={"compared": _whole_sentences(records)},
    )


def read_pairs(file: str | Path) -> list[Pair]:
    """Read a UTF-8 file of minimal pairs, one per line; empty lines are left out.

    Args:
        file: Path of the file; `-` is standard input.

    Raises:
        CorpusError: The file cannot be read, a line is not a pair, or there is none.
    """
    name = "standard input" if str(file) == "-" else str(file)
    try:
        with nullcontext(sys.stdin.buffer) if str(file) == "-" else Path(file).open("rb") as lines:
            pairs = list(_parse_pairs(lines, name))
    except OSError as error:
        raise CorpusError(
            f"{name}: cannot be read: {error.strerror}; name a file of pairs, right TAB wrong, or "
            "none to use sentences of the grammar"
        ) from None
    if not pairs:
        raise CorpusError(
            f"{name}: has no pair; write the right sentence, a tab and the wrong one on each line"
        )
    return pairs


def _training_sentences(trained: TrainedModel) -> frozenset[str] | None:
    """Return the sentences of the grammar in the training text; None if that is not available."""
    try:
        text = training_texts(trained)["train"]
    except CharlmError:
        return None
    # All sentences of the grammar begin so; the other lines of a large text would take memory.
    return frozenset(
        capitalize(strip_line_end(line, text.line_ends).decode(errors="replace"))
        for block, _ in text.blocks()
        for line in split_lines(block, text.line_ends)
        if line.startswith((b"The ", b"the "))
    )


def _parse_pairs(lines: IO[bytes], name: str) -> Iterator[Pair]:
    """Yield the pairs of a file, line by line: millions of empty lines must not fill memory."""
    count = 0
    read_line = iter(lambda: lines.readline(_MAX_LINE_BYTES), b"")
    for number, line in enumerate(read_line, start=1):
        if line.strip():
            yield _parse_pair(line, f"{name}:{number}")
            count += 1
        if count > _MAX_PAIRS or len(line) == _MAX_LINE_BYTES:
            raise CorpusError(
                f"{name}:{number}: more than {_MAX_PAIRS} pairs, or a line of more than "
                f"{_MAX_LINE_BYTES} bytes; split the file"
            )


def _parse_pair(line: bytes, place: str) -> Pair:
    text = decode_utf8(strip_line_end(line, "unicode"), place)
    sentences = text.split("\t")
    if len(sentences) != 2:
        raise CorpusError(
            f"{place}: must have one tab between the right sentence and the wrong one, got "
            f"{len(sentences) - 1}: {text!r:.60}"
        )
    right, wrong = sentences
    if not (right.strip() and wrong.strip()):
        raise CorpusError(
            f"{place}: must have a sentence on both sides of the tab, got {text!r:.60}"
        )
    if right == wrong:
        raise CorpusError(
            f"{place}: both sentences are the same, {right!r:.60}; the second must be the wrong one"
        )
    return right, wrong


def _pair_of(sentence: AgreementSentence, is_whole: bool) -> Pair:
    if is_whole:
        return sentence.text, sentence.wrong_text
    return f"{sentence.prefix} {sentence.verb}", f"{sentence.prefix} {sentence.wrong_verb}"


def _unknown_verbs(tokenizer: Tokenizer, sentences: Sequence[AgreementSentence]) -> list[str]:
    """Return the verbs that the tokenizer does not know.

    Raises:
        TokenizerError: It knows none of them.
    """
    verbs = sorted(
        {verb for sentence in sentences for verb in (sentence.verb, sentence.wrong_verb)}
    )
    # The space before a word belongs to its token.
    unknown = [verb for verb in verbs if tokenizer.find_unknown(f" {verb}")]
    if len(unknown) == len(verbs):
        raise TokenizerError(
            f"agreement: the model knows none of the verbs {', '.join(verbs)}; train on the corpus "
            "agreement, or name a file of pairs"
        )
    return unknown


def _judge(
    model: LanguageModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    ends: bool,
    device: torch.device,
) -> _Judgments:
    """Compare the probabilities of the two texts of each pair, with <EOS> at their ends or not."""
    last = [EOS] if ends else []
    # Both texts of a pair in a row, so that they are in one batch and the probability of their
    # common beginning is the same number.
    ids: list[list[int]] = [
        [*tokenizer.encode(text).tolist(), *last] for pair in pairs for text in pair
    ]
    nats = sequence_log_probabilities(model, ids, eos=EOS, device=device)
    is_tie = [right == wrong for right, wrong in zip(ids[::2], ids[1::2], strict=True)]
    # A tie is decided by the ids: the probabilities of equal ids may differ in the last digit.
    is_right = [
        right > wrong and not tie
        for right, wrong, tie in zip(nats[::2], nats[1::2], is_tie, strict=True)
    ]
    unknown = sum(sequence.count(UNK) for sequence in ids)
    return _Judgments(is_right, sum(is_tie), unknown / max(sum(map(len, ids)), 1))


def _whole_sentences(records: bool) -> str:
    return "whole sentences, each with its <EOS>" if records else "whole sentences"


def _accuracy(is_right: Sequence[bool]) -> dict[str, Any]:
    return {"count": len(is_right), "accuracy": sum(is_right) / len(is_right)}


def _by_number(
    name: str, number_of: Callable[[AgreementSentence], int], judged: Judged
) -> list[dict[str, Any]]:
    """Return the accuracy by a number, one row for each of its values."""
    groups: dict[int, list[bool]] = {}
    for sentence, is_right in judged:
        groups.setdefault(number_of(sentence), []).append(is_right)
    return [{name: number} | _accuracy(groups[number]) for number in sorted(groups)]


def _by_distance(judged: Judged) -> list[dict[str, Any]]:
    rows = []
    for low, high in _DISTANCES:
        is_right = [
            right
            for sentence, right in judged
            if low <= sentence.distance and (high is None or sentence.distance <= high)
        ]
        if is_right:
            rows.append({"distance_from": low, "distance_to": high} | _accuracy(is_right))
    return rows

"""What a model remembers: whether it holds the verb that agrees with a subject far back more probable than the other.

The measure is that of Linzen et al. 2016 (arXiv:1611.01368), on sentences of a small grammar instead of Wikipedia's;
or on minimal pairs from a file, as in Marvin and Linzen 2018 (arXiv:1808.09031).
"""

import codecs
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from charlm.data.builders import AgreementSentence, agreement_sentences
from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.data.utf8 import strip_line_end
from charlm.errors import CorpusError, TokenizerError
from charlm.evaluation.sentences import log_probabilities
from charlm.model.language_model import LanguageModel

_MOST_PAIRS, _MOST_BYTES = 1_000_000, 1 << 20  # In a file of pairs; in a line of it.
# Words between subject and verb, from and to: about a phrase of 3 to 6 words each; None is without end.
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


@dataclass(frozen=True)
class Agreement:
    """How often a model holds the right of two sentences more probable, and what that belongs to.

    Attributes:
        accuracy: Share of pairs in which it does; a tie counts as wrong.
        count: Pairs.
        unknown_pairs: How many of them are the same tokens to the model: ties.
        unknown_share: Share of tokens that are <UNK>.
        by_distance: The grammar's sentences by words between subject and verb: `distance_from`, `distance_to` (None is
            without end), `count`, `accuracy`. Empty for pairs from a file, as are the next two.
        by_nouns: By nouns between subject and verb: `nouns`, `count`, `accuracy`.
        by_attractors: By those of them that are not of the subject's number: `attractors`, `count`, `accuracy`.
        settings: What was compared, the grammar's parameters, seed, run, version and so on.
    """

    accuracy: float
    count: int
    unknown_pairs: int
    unknown_share: float
    by_distance: list[dict[str, Any]]
    by_nouns: list[dict[str, Any]]
    by_attractors: list[dict[str, Any]]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON's types."""
        return asdict(self)


def draw_sentences(
    count: int, *, seed: int, longest: int, most_nouns: int, seen: Collection[str] = frozenset()
) -> tuple[list[AgreementSentence], int]:
    """Draw sentences two by two, alike but for the number of subject and verb.

    Whatever does not read the subject is right in at most one of the two, so that 50 % is the best it can do.

    Args:
        count: How many sentences, an even number.
        seed: Of the grammar's choices.
        longest: Most phrases between subject and verb, 0 to 16.
        most_nouns: Most nouns between subject and verb, 0 to 16.
        seen: Sentences not to be asked: if one of two is among them, neither is.

    Returns:
        The sentences, a singular subject and then the plural one in turn, and how many were left out as seen.

    Raises:
        CorpusError: A parameter is out of its range, or the grammar has not so many sentences.
    """
    if count < 2 or count % 2:
        raise CorpusError(
            f"sentences must be even and at least 2, got {count}: each is asked with a singular and a plural subject"
        )

    # Each of those seen takes at most one of the twos.
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


def ask_sentences(
    model: LanguageModel,
    tokenizer: Tokenizer,
    sentences: Sequence[AgreementSentence],
    *,
    records: bool,
    device: torch.device,
) -> Agreement:
    """Ask a model for the verb of each sentence.

    A model that reads forward is asked for the text up to the verb, so that nothing after the verb counts; one that
    reads backward, or both ways, for the whole sentence, since what it knows of the verb stands after it.

    Args:
        model: On `device`.
        tokenizer: The model's.
        sentences: From `draw_sentences`.
        records: Whether <EOS> ends a whole sentence, as where the model was trained on records.
        device: Where to compute.

    Raises:
        TokenizerError: It knows none of the verbs.
    """
    unknown = _unknown_verbs(tokenizer, sentences)
    whole = model.direction != "forward"
    texts = [
        (each.text, each.wrong_text)
        if whole
        else (f"{each.prefix} {each.verb}", f"{each.prefix} {each.wrong_verb}")
        for each in sentences
    ]
    is_right, facts = _ask(model, tokenizer, texts, ends=records and whole, device=device)
    asked = list(zip(sentences, is_right, strict=True))
    return Agreement(
        **_share(is_right),
        **facts,
        by_distance=_by_distance(asked),
        by_nouns=_by("nouns", lambda sentence: sentence.nouns, asked),
        by_attractors=_by("attractors", lambda sentence: sentence.attractors, asked),
        settings={
            "compared": _whole(records) if whole else "texts up to the verb",
            "unknown_verbs": unknown,
        },
    )


def ask_pairs(
    model: LanguageModel,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    records: bool,
    device: torch.device,
) -> Agreement:
    """Ask a model which of two whole sentences is more probable.

    Args:
        model: On `device`.
        tokenizer: The model's; what it does not know is read as <UNK>.
        pairs: The right sentence and the wrong one.
        records: Whether <EOS> ends a sentence, as where the model was trained on records.
        device: Where to compute.
    """
    is_right, facts = _ask(model, tokenizer, pairs, ends=records, device=device)
    return Agreement(
        **_share(is_right),
        **facts,
        by_distance=[],
        by_nouns=[],
        by_attractors=[],
        settings={"compared": _whole(records)},
    )


def read_pairs(file: str | Path) -> list[tuple[str, str]]:
    """Read minimal pairs: the right sentence, a tab, the wrong one; a pair a line, in UTF-8. Empty lines are skipped.

    Args:
        file: Its path; `-` is standard input.

    Raises:
        CorpusError: The file cannot be read, a line is no such pair, or there is none.
    """
    name = "standard input" if str(file) == "-" else str(file)
    pairs = []
    try:
        with nullcontext(sys.stdin.buffer) if str(file) == "-" else Path(file).open("rb") as lines:
            # One by one: a file of nothing but line ends would take many times its size.
            for number, line in enumerate(iter(lambda: lines.readline(_MOST_BYTES), b""), start=1):
                if line.strip():
                    pairs.append(
                        _pair(
                            line.removeprefix(codecs.BOM_UTF8 * (number == 1)), f"{name}:{number}"
                        )
                    )
                if len(pairs) > _MOST_PAIRS or len(line) == _MOST_BYTES:
                    raise CorpusError(
                        f"{name}:{number}: has more than {_MOST_PAIRS} pairs, or a line of more than "
                        f"{_MOST_BYTES} bytes; give a part of it"
                    )
    except OSError as error:
        raise CorpusError(
            f"{name}: cannot be read: {error.strerror}; give a file of pairs, right TAB wrong, or none to ask for the "
            "grammar's sentences"
        ) from None
    if not pairs:
        raise CorpusError(
            f"{name}: holds no pair; write the right sentence, a tab, the wrong one, a pair a line"
        )
    return pairs


def _pair(line: bytes, place: str) -> tuple[str, str]:
    try:
        text = strip_line_end(line).decode()
    except UnicodeDecodeError as error:
        value = f"0x{line[error.start]:02x}"
        raise CorpusError(
            f"{place}: byte {error.start} ({value}) is not UTF-8; save the file as UTF-8"
        ) from None
    sentences = text.split("\t")
    if len(sentences) != 2:
        raise CorpusError(
            f"{place}: must have one tab, between the right sentence and the wrong one, got {len(sentences) - 1}: "
            f"{text!r:.60}"
        )
    right, wrong = sentences
    if not (right.strip() and wrong.strip()):
        raise CorpusError(
            f"{place}: must have a sentence on both sides of the tab, got {text!r:.60}"
        )
    if right == wrong:
        raise CorpusError(
            f"{place}: the two sentences are the same, {right!r:.60}; the second must be the wrong one"
        )
    return right, wrong


def _unknown_verbs(tokenizer: Tokenizer, sentences: Sequence[AgreementSentence]) -> list[str]:
    """Return the verbs that the tokenizer does not know, unless it is all of them."""
    verbs = sorted(
        {verb for sentence in sentences for verb in (sentence.verb, sentence.wrong_verb)}
    )
    # With the space before it, which belongs to the word's token.
    unknown = [verb for verb in verbs if tokenizer.find_unknown(f" {verb}")]
    if len(unknown) == len(verbs):
        raise TokenizerError(
            f"agreement: the model knows none of the verbs {', '.join(verbs)}; train on the corpus agreement, or give "
            "a file of pairs"
        )
    return unknown


def _ask(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[tuple[str, str]],
    *,
    ends: bool,
    device: torch.device,
) -> tuple[list[bool], dict[str, Any]]:
    """Return whether each first text is more probable than its second, and what the tokenizer did not know."""
    last = [EOS] if ends else []
    # Each beside its other, so that the two are read in one batch and their common beginning is the same number.
    ids: list[list[int]] = [
        [*tokenizer.encode(text).tolist(), *last] for pair in texts for text in pair
    ]
    nats = log_probabilities(model, ids, device=device)
    is_tie = [right == wrong for right, wrong in zip(ids[::2], ids[1::2], strict=True)]
    # Two readings of the same ids may differ in the last digit.
    is_right = [
        right > wrong and not tie
        for right, wrong, tie in zip(nats[::2], nats[1::2], is_tie, strict=True)
    ]
    unknown = sum(sequence.count(UNK) for sequence in ids)
    return is_right, {
        "unknown_pairs": sum(is_tie),
        "unknown_share": unknown / max(sum(map(len, ids)), 1),
    }


def _whole(records: bool) -> str:
    return "whole sentences, each with its <EOS>" if records else "whole sentences"


def _share(is_right: Sequence[bool]) -> dict[str, Any]:
    return {"count": len(is_right), "accuracy": sum(is_right) / len(is_right)}


def _by(
    name: str,
    number: Callable[[AgreementSentence], int],
    asked: Sequence[tuple[AgreementSentence, bool]],
) -> list[dict[str, Any]]:
    found: dict[int, list[bool]] = {}
    for sentence, right in asked:
        found.setdefault(number(sentence), []).append(right)
    return [{name: value} | _share(found[value]) for value in sorted(found)]


def _by_distance(asked: Sequence[tuple[AgreementSentence, bool]]) -> list[dict[str, Any]]:
    rows = []
    for low, high in _DISTANCES:
        found = [
            right
            for sentence, right in asked
            if low <= sentence.distance and (high is None or sentence.distance <= high)
        ]
        rows += [{"distance_from": low, "distance_to": high} | _share(found)] if found else []
    return rows

"""Parity of bit strings by length: can a recurrence count modulo two?

A linear recurrence whose factors are positive cannot compute parity at every length in finite
precision, however many layers it has; an LSTM can (Grazzi et al. 2024, arXiv:2411.12537). The
strings have the form of the corpus parity, as in "0110=0", and are drawn anew.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from charlm.data.builders.parity import with_parity
from charlm.errors import OptionError, TokenizerError
from charlm.evaluation.probes.agreement import Pair, score_pairs
from charlm.storage.results import Result
from charlm.storage.tables import format_settings
from charlm.trained_model import TrainedModel, provenance, require_language_model

_MAX_BITS = 4096


@dataclass(frozen=True)
class Parity(Result):
    """Accuracy of a model on the parity of bit strings.

    Attributes:
        accuracy: Fraction of strings after which the right parity is the more probable one; a tie
            is wrong, and 0.5 is chance.
        count: Number of strings.
        by_length: Accuracy by number of bits: `bits`, `count`, `accuracy`.
        settings: Number of strings per length, longest string, seed, run, version and so on.
    """

    accuracy: float
    count: int
    by_length: list[dict[str, Any]]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield a row for each number of bits, and the settings."""
        yield f"{'bits':>6}  {'strings':>8}  {'accuracy':>8}"
        for row in self.by_length:
            yield f"{row['bits']:>6,}  {row['count']:>8,}  {row['accuracy']:>8.1%}"
        yield f"{'all':>6}  {self.count:>8,}  {self.accuracy:>8.1%}"
        yield format_settings(self.settings)


def measure_parity(
    trained: TrainedModel, *, strings: int = 200, longest: int = 64, seed: int = 2
) -> Parity:
    """Measure how often a model gives the right parity the higher probability.

    Strings have 1, 2, 4 ... bits. They are drawn in twos that differ in one bit, so that a model
    that ignores a bit is right about half of them at most. Short strings are in the training text
    too.

    Args:
        trained: The model.
        strings: Number of strings of each length, even.
        longest: Largest number of bits; the corpus parity has at most 16.
        seed: Seed of the strings.

    Raises:
        OptionError: A parameter is out of range.
        TokenizerError: The model does not know the characters of the strings.
        LanguageModelRequiredError: The model was trained on pairs.
    """
    require_language_model(trained)
    if strings < 2 or strings % 2:
        raise OptionError("strings", "must be even and at least 2", value=strings)
    if not 1 <= longest <= _MAX_BITS:
        raise OptionError("longest", f"must be from 1 to {_MAX_BITS}", value=longest)
    by_length = [
        {"bits": bits, "count": strings, "accuracy": _accuracy(trained, bits, strings, seed)}
        for bits in _lengths(longest)
    ]
    settings = {"strings": strings, "longest": longest, "seed": seed}
    return Parity(
        accuracy=sum(row["accuracy"] for row in by_length) / len(by_length),
        count=strings * len(by_length),
        by_length=by_length,
        settings=provenance(trained) | settings,
    )


def _lengths(longest: int) -> Iterator[int]:
    bits = 1
    while bits < longest:
        yield bits
        bits *= 2
    yield longest


def _accuracy(trained: TrainedModel, bits: int, strings: int, seed: int) -> float:
    pairs = list(_draw_pairs(random.Random(f"{seed} {bits}"), bits, strings))
    judged = score_pairs(
        trained.model,
        trained.tokenizer,
        pairs,
        records=trained.writes_records,
        device=trained.device,
    )
    if judged.unknown_pairs:
        raise TokenizerError(
            f"{trained.folder}: the model does not know the characters 0 and 1, so it cannot give "
            "a parity; train it on the corpus parity"
        )
    return judged.accuracy


def _draw_pairs(choices: random.Random, bits: int, strings: int) -> Iterator[Pair]:
    """Yield right and wrong strings; each string comes with one that differs in one bit."""
    for _ in range(strings // 2):
        # Python guarantees the same numbers in every version for `random()` alone.
        digits = ["01"[choices.random() < 0.5] for _ in range(bits)]
        place = int(choices.random() * bits)
        flipped = [*digits[:place], "10"[int(digits[place])], *digits[place + 1 :]]
        for string in (digits, flipped):
            right = with_parity("".join(string))
            yield right, right[:-1] + "10"[int(right[-1])]

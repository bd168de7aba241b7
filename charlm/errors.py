"""User errors: place, problem, value, remedy, in one line."""

import copyreg
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any


def quote(text: str) -> str:
    """Return a text in quotation marks, as `repr` does; a combining mark as U+0301.

    A terminal would print a combining mark at the beginning onto the quotation mark.
    """
    if not text or not unicodedata.category(text[0]).startswith("M"):
        return repr(text)
    mark = f"{ord(text[0]):04X}"
    return f"U+{mark}" if len(text) == 1 else f"'\\u{mark.lower()}{repr(text[1:])[1:]}"


def counted(count: float, noun: str) -> str:
    """Return a number with its noun: `1 step`, `1,000 steps`, `0.5 minutes`."""
    return f"{count:,.15g} {noun}{'' if count == 1 else 's'}"


class CharlmError(Exception):
    """A user's mistake or a failure of the environment; its message is one line.

    Any other exception is a bug in charlm.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields, because the arguments of a class are not always its message."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class OptionError(CharlmError):
    """An option whose value cannot be used, alone or together with another option.

    The command line writes `--max-copy` where Python writes `max_copy`.

    Attributes:
        option: Name of the option in Python.
        problem: What is wrong and what to do; `{}` stands for the name of another option and must
            come before any text that a user wrote.
        value: The value given, or None if the message does not show it.
        others: Names of the other options that the problem mentions.
    """

    def __init__(
        self, option: str, problem: str, *, value: object = None, others: Sequence[str] = ()
    ) -> None:
        """Describe the problem; the arguments are the attributes of the class."""
        self.option = option
        self.problem = problem
        self.value = value
        self.others = tuple(others)
        super().__init__(self.message())

    def message(self, spell: Callable[[str], str] = str) -> str:
        """Return the message, in which `spell` writes the name of an option."""
        problem = self.problem
        for other in self.others:  # One by one: what a user wrote may contain braces, too.
            problem = problem.replace("{}", spell(other), 1)
        shown = quote(self.value) if isinstance(self.value, str) else repr(self.value)
        value = "" if self.value is None else f", got {' '.join(shown.splitlines()):.60}"
        return f"{spell(self.option)}: {problem}{value}"


class UnsupportedOptionError(OptionError):
    """An option that is valid, but not for this model or this text."""


def refuse_beside(option: str, reason: str = "", /, **others: object) -> None:
    """Raise OptionError if another option is given beside one that excludes it.

    Args:
        option: Name of the option in Python.
        reason: Relative clause about it.
        others: Values of the excluded options by name; None, False and () are not given.
    """
    clause = f", {reason}" if reason else ""
    for other, value in others.items():
        if value is not None and value is not False and value not in ([], ()):
            raise OptionError(
                other, f"cannot be combined with {{}}{clause}; leave one out", others=[option]
            )


class ConfigError(CharlmError):
    """A configuration file, an override or a combination of settings that cannot be used."""


class CorpusError(CharlmError):
    """A text that is missing, empty, too small, or not text."""


class FetchError(CorpusError):
    """A download that failed, or whose checksum differs from the one on the corpus card."""


class TokenizerError(CharlmError):
    """A text that the tokenizer cannot represent, or a tokenizer file that does not fit."""


class CheckpointError(CharlmError):
    """A run folder that is missing, damaged, or inconsistent."""


class DivergenceError(CharlmError):
    """The loss or a probability is not finite.

    Attributes:
        problem: The step, and what is not finite.
        remedy: Settings to change.
    """

    def __init__(
        self,
        problem: str,
        remedy: str = (
            "lower training.learning_rate, set a lower training.clipnorm or a longer "
            "training.warmup_steps"
        ),
    ) -> None:
        """Describe the problem; the arguments are the attributes of the class."""
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the message: problem and remedy."""
        return f"{self.problem}; {self.remedy}"


class DeviceError(CharlmError):
    """The requested device or precision is not available."""


class GroupError(CharlmError):
    """The processes of a distributed training cannot continue together."""


class StorageError(CharlmError):
    """A database that cannot be reached, or lacks what a search needs."""


class BusyError(CharlmError):
    """A server that has as many requests as it accepts; the same request may succeed later."""


class ClosedError(CharlmError):
    """A server that is shutting down and accepts no more requests."""

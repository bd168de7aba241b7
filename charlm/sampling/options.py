"""Options of sampling, beam search and filling a gap, checked in one place, conflicts included.

The command line and Python build the same objects. This module does not import torch, so that the
command line can refuse wrong usage before it loads anything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from charlm.config.values import check_at_least, check_counts, check_names, checked
from charlm.errors import OptionError, refuse_beside
from charlm.sampling.filter_options import DEFAULT_TEMPERATURE as DEFAULT_TEMPERATURE
from charlm.sampling.filter_options import Filters as Filters

if TYPE_CHECKING:  # It imports torch.
    from charlm.sampling.saved_state import GenerationState

DEFAULT_LENGTH = 500  # In tokens.
TEXT_SEPARATOR = "\n\n---\n\n"  # Printed between two texts, unless the corpus has a separator.
DEFAULT_LENGTH_PENALTY = 0.6
DEFAULT_BEAMS = 8
DEFAULT_NEXT_TOKENS = 10
_GAP = re.compile("_{3,}")


def _check_not_empty(option: str, texts: tuple[str, ...]) -> None:
    if not all(texts):
        raise OptionError(option, "must not be empty, because every text contains the empty text")


@checked
@dataclass(frozen=True)
class StopCondition:
    """Where a text ends; the first condition that holds ends it.

    Attributes:
        length: Maximum number of new tokens; None for 500, or with `characters` for as many as
            those take.
        characters: Number of new characters, at which the text is cut exactly.
        until: Stop strings; the text ends with the first one that is written.
        includes_until: Whether that stop string is part of the text; else the text ends before it.

    Raises:
        OptionError: A value is out of its range.
    """

    length: int | None = None
    characters: int | None = None
    until: tuple[str, ...] = ()
    includes_until: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(length=self.length, characters=self.characters)
        _check_not_empty("until", self.until)

    @property
    def max_tokens(self) -> int:
        """Number of new tokens after which the text ends, however few characters they make."""
        if self.length is not None:
            return self.length
        if self.characters is None:
            return DEFAULT_LENGTH
        # A character has at most four bytes, and <EOS> may add no text: a trained model needs far
        # fewer tokens.
        return 8 * self.characters + 1000


@checked
@dataclass(frozen=True)
class ConstraintOptions:
    """What a text must and must not contain.

    Attributes:
        ban: Texts that are never written.
        max_copy: Maximum number of characters in a row that may be copied from the training text;
            None for no limit.
        matching: Regular expression, in the syntax of Rust's regex crate, that the new text matches
            as a whole; None for any text.
        novel: Whether texts that are in the corpus, and repeated texts, are left out.

    Raises:
        OptionError: A value is out of its range, or excludes another.
    """

    ban: tuple[str, ...] = ()
    max_copy: int | None = None
    matching: str | None = None
    novel: bool = False

    def __post_init__(self) -> None:
        """Check the ranges, and that the options can be used together."""
        _check_not_empty("ban", self.ban)
        check_counts(max_copy=self.max_copy)
        if self.matching is not None:
            refuse_beside("matching", max_copy=self.max_copy)


@runtime_checkable
class StateSource(Protocol):
    """A file with a saved generation state, such as a path; `str` returns its name for messages."""

    def read_bytes(self) -> bytes:
        """Return the contents of the file."""
        ...


@checked
@dataclass(frozen=True)
class SampleOptions:
    """How texts are sampled.

    Attributes:
        prompt: Beginning of each text; for a model that reads backward, its end.
        stop: Where a text ends.
        filters: How a token is drawn.
        constraints: What a text must and must not contain.
        count: Number of texts.
        best_of: Number of candidates per text; the one with the highest normalized log-probability
            is returned.
        length_penalty: Exponent of that normalization (Wu et al. 2016), 0 for none; None for 0.6.
        seed: Seed of the random numbers; None for the seed of `state_in`, or 1.
        allow_unknown: Whether prompts may have characters or words that the model does not know,
            which are read as <UNK>, and whether `until` and `ban` may have text that it can never
            write.
        state_in: State that the text continues from, or a file that holds it.
        state_out: Whether the text may be continued later: its state is returned with it.
        scored: Whether log-probabilities are returned.

    Raises:
        OptionError: A value is out of its range, or options exclude each other.
    """

    prompt: str = ""
    stop: StopCondition = StopCondition()
    filters: Filters = Filters()  # noqa: RUF009 - It is frozen.
    constraints: ConstraintOptions = ConstraintOptions()
    count: int = 1
    best_of: int = 1
    length_penalty: float | None = None
    seed: int | None = None
    allow_unknown: bool = False
    state_in: "StateSource | GenerationState | None" = None
    state_out: bool = False
    scored: bool = True

    def __post_init__(self) -> None:
        """Check the ranges, and that the options can be used together."""
        check_counts(count=self.count, best_of=self.best_of)
        check_at_least(0, length_penalty=self.length_penalty, seed=self.seed)
        if self.length_penalty is not None and self.best_of == 1:
            raise OptionError(
                "length_penalty", "has no effect without {} or {}", others=["best_of", "beams"]
            )
        continues = self.state_in is not None
        if self.constraints.matching is not None:
            refuse_beside(
                "matching",
                characters=self.stop.characters,
                until=self.stop.until,
                state_in=continues,
                state_out=self.state_out,
            )
        if continues or self.state_out:
            refuse_beside(
                "state_in" if continues else "state_out",
                count=self.count > 1,
                best_of=self.best_of > 1,
                novel=self.constraints.novel,
                max_copy=self.constraints.max_copy,
            )

    @property
    def ranking_penalty(self) -> float:
        """Exponent of the length normalization that ranks the candidates for a text."""
        return DEFAULT_LENGTH_PENALTY if self.length_penalty is None else self.length_penalty


@checked
@dataclass(frozen=True)
class SearchOptions:
    """How the most probable texts are searched for.

    Attributes:
        beams: Number of texts that are extended side by side.
        prompt: Beginning of each text; for a model that reads backward, its end.
        stop: Where a text ends.
        count: Number of texts to return, at most `beams`.
        length_penalty: Exponent of the length normalization that ranks the texts (Wu et al. 2016);
            0 for none.
        ban: Texts that are never written.
        no_repeat_ngram: Length of the n-grams that may not occur twice, in tokens; None is off.
        allow_unknown: As in `SampleOptions`.

    Raises:
        OptionError: A value is out of its range, or there are fewer beams than texts.
    """

    beams: int = DEFAULT_BEAMS
    prompt: str = ""
    stop: StopCondition = StopCondition()
    count: int = 1
    length_penalty: float = DEFAULT_LENGTH_PENALTY
    ban: tuple[str, ...] = ()
    no_repeat_ngram: int | None = None
    allow_unknown: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(beams=self.beams, count=self.count, no_repeat_ngram=self.no_repeat_ngram)
        check_at_least(0, length_penalty=self.length_penalty)
        _check_not_empty("ban", self.ban)
        if self.beams < self.count:
            problem = f"must be at least {{}}, which is {self.count}"
            raise OptionError("beams", problem, value=self.beams, others=["count"])


@checked
@dataclass(frozen=True)
class CompletionOptions:
    """How targets are written.

    Attributes:
        beams: Number of beams; 1 takes the most probable token at each step.
        length: Maximum number of tokens of a target.
        allow_unknown: Whether unknown characters and words of a source are read as <UNK>.

    Raises:
        OptionError: A value is out of its range.
    """

    beams: int = 1
    length: int = DEFAULT_LENGTH
    allow_unknown: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(beams=self.beams, length=self.length)


@checked
@dataclass(frozen=True)
class FillOptions:
    """How the gap in a text is filled.

    Attributes:
        text: Text with one gap, three or more underscores: "The ____ were full.".
        length: Maximum number of tokens in the gap.
        count: Number of texts, no two alike.
        temperature: Divisor of the log-probabilities; 0 returns the most probable texts, the best
            first.
        seed: Seed of the random numbers.
        allow_unknown: Whether the text may have characters or words that the model does not know;
            they are read as <UNK>.

    Raises:
        OptionError: A value is out of its range, or the text does not have exactly one gap.
    """

    text: str
    length: int = 16
    count: int = 1
    temperature: float = DEFAULT_TEMPERATURE
    seed: int = 1
    allow_unknown: bool = False

    def __post_init__(self) -> None:
        """Check the ranges, and that there is one gap."""
        check_counts(length=self.length, count=self.count)
        check_at_least(0, temperature=self.temperature, seed=self.seed)
        gaps = len(self.pieces) - 1
        if gaps != 1:
            problem = f"the text must have one gap, written ____, but has {gaps}"
            raise OptionError("fill", problem, value=self.text)

    @property
    def pieces(self) -> list[str]:
        """The text before and after the gap."""
        return _GAP.split(self.text)


@checked
@dataclass(frozen=True)
class NextOptions:
    """Which next tokens of a prompt are listed.

    Attributes:
        prompt: Text before the token; for a model that reads backward, after it.
        count: Number of tokens, the most probable ones.
        allow_unknown: Whether the prompt may have characters or words that the model does not know;
            they are read as <UNK>.

    Raises:
        OptionError: The number is below 1.
    """

    prompt: str = ""
    count: int = DEFAULT_NEXT_TOKENS
    allow_unknown: bool = False

    def __post_init__(self) -> None:
        """Check the range."""
        check_counts(count=self.count)


Options = TypeVar(
    "Options", SampleOptions, SearchOptions, FillOptions, NextOptions, CompletionOptions
)
_PARTS: Mapping[str, type[StopCondition | Filters | ConstraintOptions]] = {
    "stop": StopCondition,
    "filters": Filters,
    "constraints": ConstraintOptions,
}
_SELECTED_BY = {SearchOptions: "beams", FillOptions: "fill", NextOptions: "next"}


def build_options(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Return options of a kind from flat names, such as `temperature` and `max_copy`.

    Args:
        kind: `SampleOptions` or another kind of options of this module.
        given: Values by name; None stands for an option that was not given.

    Raises:
        OptionError: A value is out of its range, or an option cannot be used together with another.
        TypeError: A name is no option of sampling.
    """
    values = {name: value for name, value in given.items() if value is not None}
    names = _names(kind)
    parts: dict[str, Any] = {
        part: part_type(**{name: values.pop(name) for name in _names(part_type) & values.keys()})
        for part, part_type in _PARTS.items()
        if part in names
    }
    if kind in _SELECTED_BY:
        foreign = {name: name in _all_names() - names for name in values}
        refuse_beside(_SELECTED_BY[kind], **foreign)
    others = set().union(*map(_names, _PARTS.values()))
    check_names(values, names - _PARTS.keys(), suggested=others)
    return kind(**parts, **values)


def check_stream(options: SampleOptions) -> None:
    """Raise OptionError if the texts of options cannot be yielded while they are written."""
    refuse_beside(
        "stream",
        "which yields one text as it is written",
        count=options.count > 1,
        best_of=options.best_of > 1,
        novel=options.constraints.novel,
    )


def _all_names() -> set[str]:
    kinds = (SampleOptions, SearchOptions, FillOptions, NextOptions, *_PARTS.values())
    return {name for kind in kinds for name in _names(kind)}


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}

"""Options of sampling, beam search and filling a gap, checked in one place, conflicts included.

The command line and Python build the same objects. This module does not import torch, so that the
command line can refuse wrong usage before it loads anything.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from charlm.errors import OptionError

if TYPE_CHECKING:  # It imports torch.
    from charlm.sampling.saved_state import GenerationState

DEFAULT_LENGTH = 500  # Tokens.
DEFAULT_LENGTH_PENALTY = 0.6
# At 1, one improbable token in a few words spoils the text of most models; see docs/sample.md.
DEFAULT_TEMPERATURE = 0.8
DEFAULT_BEAMS = 8
DEFAULT_NEXT_TOKENS = 10
# Order in which filters are applied.
FILTER_ORDER: tuple[str, ...] = (
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "no_repeat_ngram",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical",
    "epsilon",
    "eta",
)
# Values, besides None, at which a filter changes nothing.
_NEUTRAL: dict[str, object] = {
    "logit_bias": (),
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "temperature": 1,
    "top_p": 1,
    "min_p": 0,
    "typical": 1,
    "epsilon": 0,
    "eta": 0,
}
_READS_HISTORY = ("presence_penalty", "frequency_penalty", "repetition_penalty", "no_repeat_ngram")
# Largest absolute values, as in the API of OpenAI.
_MAX_PENALTY = 2
_MAX_BIAS = 100
_GAP = re.compile("_{3,}")


def _check_at_least(minimum: float, **values: float | None) -> None:
    for option, value in values.items():
        if value is not None and not minimum <= value < math.inf:
            raise OptionError(option, f"must be at least {minimum}", value=value)


def _check_fraction(**values: float | None) -> None:
    for option, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise OptionError(option, "must be between 0 and 1", value=value)


def _check_magnitude(maximum: float, **values: float | None) -> None:
    for option, value in values.items():
        if value is not None and not abs(value) <= maximum:
            raise OptionError(option, f"must be between -{maximum} and {maximum}", value=value)


def _check_not_empty(option: str, texts: tuple[str, ...]) -> None:
    if not all(texts):
        raise OptionError(option, "must not be empty, because every text contains the empty text")


def _refuse_together(option: str, **others: bool) -> None:
    """Refuse options that are given, but cannot be used together with another one."""
    for other, is_given in others.items():
        if is_given:
            raise OptionError(other, "cannot be used with {}; leave one out", others=[option])


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
        _check_at_least(1, length=self.length, characters=self.characters)
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


@dataclass(frozen=True)
class Filters:
    """How the distribution of the next token is changed before a token is drawn; None is off.

    Attributes:
        temperature: Divisor of the logits; 1 leaves them as they are, and 0 takes the most probable
            token.
        top_k: Number of most probable tokens to draw from.
        top_p: Probability that the most probable tokens to draw from have together.
        min_p: Minimum probability of a token, as a fraction of the most probable token's.
        typical: Probability that the most typical tokens to draw from have together.
        epsilon: Probability that a token must exceed.
        eta: Like `epsilon`, but lower where the distribution is flat.
        repetition_penalty: Divisor of the logits of tokens that the text already has; 1 is off.
        repetition_window: Number of last tokens that the penalty applies to; None for all.
        no_repeat_ngram: Length of the n-grams that may not occur twice, in tokens.
        presence_penalty: Number subtracted from the logit of each token that the new text already
            has; between -2 and 2.
        frequency_penalty: Number subtracted from the logit of a token for each time that the new
            text has it; between -2 and 2.
        logit_bias: Pairs of an id and the number that is added to its logit, between -100 and 100,
            before everything else.

    Raises:
        OptionError: A value is out of its range, or has no effect.
    """

    temperature: float = DEFAULT_TEMPERATURE
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical: float | None = None
    epsilon: float | None = None
    eta: float | None = None
    repetition_penalty: float | None = None
    repetition_window: int | None = None
    no_repeat_ngram: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_at_least(0, temperature=self.temperature)
        _check_at_least(
            1,
            top_k=self.top_k,
            repetition_window=self.repetition_window,
            no_repeat_ngram=self.no_repeat_ngram,
        )
        _check_fraction(
            top_p=self.top_p,
            min_p=self.min_p,
            typical=self.typical,
            epsilon=self.epsilon,
            eta=self.eta,
        )
        _check_magnitude(
            _MAX_PENALTY,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )
        for token, bias in self.logit_bias:
            _check_at_least(0, logit_bias=token)
            _check_magnitude(_MAX_BIAS, logit_bias=bias)
        penalty = self.repetition_penalty
        if penalty is not None and not 0 < penalty < math.inf:
            raise OptionError("repetition_penalty", "must be above 0", value=penalty)
        if self.repetition_window is not None and penalty is None:
            raise OptionError(
                "repetition_window", "has no effect without {}", others=["repetition_penalty"]
            )

    @cached_property
    def active(self) -> tuple[str, ...]:
        """Names of the filters that change anything, in their order."""
        names = FILTER_ORDER
        if self.temperature == 0:  # The most probable token passes all filters that follow.
            names = names[: names.index("temperature")]
        return tuple(
            name for name in names if getattr(self, name) not in (None, _NEUTRAL.get(name))
        )

    @cached_property
    def reads_history(self) -> bool:
        """Whether a filter needs the text so far."""
        return any(name in self.active for name in _READS_HISTORY)


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
        _check_at_least(1, max_copy=self.max_copy)
        if self.matching is not None:
            _refuse_together("matching", max_copy=self.max_copy is not None)


class StateSource(Protocol):
    """A file with a saved generation state, such as a path; `str` returns its name for messages."""

    def read_bytes(self) -> bytes:
        """Return the contents of the file."""
        ...


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
    filters: Filters = Filters()
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
        _check_at_least(1, count=self.count, best_of=self.best_of)
        _check_at_least(0, length_penalty=self.length_penalty, seed=self.seed)
        if self.length_penalty is not None and self.best_of == 1:
            raise OptionError(
                "length_penalty", "has no effect without {} or {}", others=["best_of", "beams"]
            )
        continues = self.state_in is not None
        if self.constraints.matching is not None:
            _refuse_together(
                "matching",
                characters=self.stop.characters is not None,
                until=bool(self.stop.until),
                state_in=continues,
                state_out=self.state_out,
            )
        if continues or self.state_out:
            _refuse_together(
                "state_in" if continues else "state_out",
                count=self.count > 1,
                best_of=self.best_of > 1,
                novel=self.constraints.novel,
                max_copy=self.constraints.max_copy is not None,
            )

    @property
    def ranking_penalty(self) -> float:
        """Exponent of the length normalization that ranks the candidates for a text."""
        return DEFAULT_LENGTH_PENALTY if self.length_penalty is None else self.length_penalty


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
        _check_at_least(1, beams=self.beams, count=self.count, no_repeat_ngram=self.no_repeat_ngram)
        _check_at_least(0, length_penalty=self.length_penalty)
        _check_not_empty("ban", self.ban)
        if self.beams < self.count:
            problem = f"must be at least {{}}, which is {self.count}"
            raise OptionError("beams", problem, value=self.beams, others=["count"])


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
        _check_at_least(1, beams=self.beams, length=self.length)


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
        _check_at_least(1, length=self.length, count=self.count)
        _check_at_least(0, temperature=self.temperature, seed=self.seed)
        gaps = len(self.pieces) - 1
        if gaps != 1:
            problem = f"the text must have one gap, written ____, but has {gaps}"
            raise OptionError("fill", problem, value=self.text)

    @property
    def pieces(self) -> list[str]:
        """The text before and after the gap."""
        return _GAP.split(self.text)


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
        _check_at_least(1, count=self.count)


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
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }
    for name in ("ban", "until"):
        if isinstance(values.get(name), str):
            values[name] = (values[name],)
    if isinstance(values.get("logit_bias"), Mapping):
        values["logit_bias"] = tuple(values["logit_bias"].items())
    names = _names(kind)
    parts: dict[str, Any] = {
        part: part_type(**{name: values.pop(name) for name in _names(part_type) & values.keys()})
        for part, part_type in _PARTS.items()
        if part in names
    }
    if kind in _SELECTED_BY:
        foreign = {name: name in _all_names() - names for name in values}
        _refuse_together(_SELECTED_BY[kind], **foreign)
    if unknown := values.keys() - names:
        raise TypeError(_unknown_option(min(unknown), names.union(*map(_names, _PARTS.values()))))
    return kind(**parts, **values)


def _unknown_option(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return f"{name}: no such option{f' (nearest: {near[0]})' if near else ''}"


def _all_names() -> set[str]:
    kinds = (SampleOptions, SearchOptions, FillOptions, NextOptions, *_PARTS.values())
    return {name for kind in kinds for name in _names(kind)}


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}

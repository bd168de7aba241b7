"""Options of the measurements, validated once. The command line and Python build the same object.

This module imports neither torch nor numpy, so that the command line can take defaults from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from charlm.config.values import check_counts, checked
from charlm.errors import OptionError, refuse_beside

if TYPE_CHECKING:  # It imports pydantic.
    from charlm.data.cards import Part

SEGMENT = 20
FIT_TOKENS = 20_000
SHOWN_TOKENS = 1000  # At most as many tokens are printed, unless another number is given.
RARE = 5  # Words that occur at most this often in the training text are rare.


@dataclass(frozen=True)
class AdaptationOptions:
    """Ways in which a model adapts to a text while it reads.

    Attributes:
        dynamic: Whether the model learns from each segment after predicting it.
        cache: Whether a neural cache is interpolated with the model.
        mix_ngram: Order of the n-gram model of the training text that is interpolated, or None.
        segment: Number of tokens that dynamic evaluation predicts before it learns from them.
        fit_tokens: Number of tokens, from the beginning of the validation split, on which rates
            and weights are fitted.
    """

    dynamic: bool = False
    cache: bool = False
    mix_ngram: int | None = None
    segment: int = SEGMENT
    fit_tokens: int = FIT_TOKENS

    @property
    def is_static(self) -> bool:
        """Whether the model does not adapt."""
        return not (self.dynamic or self.cache or self.mix_ngram is not None)


@checked
@dataclass(frozen=True)
class ScoringOptions:
    """Options of `perplexity`.

    Attributes:
        text: A string to score.
        paths: Files, folders or names of corpora to score, or one of them, instead of `text`.
        split: Part of the run's own corpus to score, if neither `text` nor `paths` is given.
        streams: Number of pieces of the text read side by side. One is exact; more are faster.
        precision: Precision of the matrix products, `fp32` or `bf16`.
        temperature: Divisor of the logits; `fit` takes the one that is best on the validation
            split of the run's corpus.
        dynamic: Whether to score dynamic evaluation as well (Krause et al. 2018). It can be
            combined with the next two; all three are fitted on the validation split.
        cache: Whether to score the model with a neural cache as well (Grave et al. 2017).
        mix_ngram: Order of a Kneser-Ney model of the training text to interpolate, or None.
        segment: Number of tokens that dynamic evaluation predicts before it learns from them.
        fit_tokens: Number of tokens of the validation split, from its beginning, to fit on.
        baselines: Whether to score n-gram models and compressors on the same text.
        int8: Whether to score the model with its products in int8 as well, beside fp32.
    """

    text: str | None = None
    paths: str | Path | Sequence[str | Path] = ()
    split: "Part" = "valid"
    streams: int = 1
    precision: str = "fp32"
    temperature: float | Literal["fit"] = 1.0
    dynamic: bool = False
    cache: bool = False
    mix_ngram: int | None = None
    segment: int = SEGMENT
    fit_tokens: int = FIT_TOKENS
    baselines: bool = False
    int8: bool = False

    def __post_init__(self) -> None:
        """Validate all options.

        Raises:
            OptionError: A value is out of range, or two options contradict each other.
        """
        if self.text is not None:
            refuse_beside("text", paths=self.paths)
        if self.precision not in ("fp32", "bf16"):
            raise OptionError("precision", "must be fp32 or bf16", value=self.precision)
        if self.int8 and self.precision != "fp32":
            raise OptionError(
                "int8", "is compared with {} fp32; leave one out", others=["precision"]
            )
        check_counts(
            streams=self.streams,
            mix_ngram=self.mix_ngram,
            segment=self.segment,
            fit_tokens=self.fit_tokens,
        )
        if self.segment != SEGMENT and not self.dynamic:
            raise OptionError("segment", "has no effect without {}", others=["dynamic"])
        if self.fit_tokens != FIT_TOKENS and self.adaptation.is_static:
            others = ["dynamic", "cache", "mix_ngram"]
            raise OptionError("fit_tokens", "has no effect without {}, {} or {}", others=others)
        check_temperature(self.temperature)

    @property
    def adaptation(self) -> AdaptationOptions:
        """The options that concern adaptation."""
        return AdaptationOptions(
            dynamic=self.dynamic,
            cache=self.cache,
            mix_ngram=self.mix_ngram,
            segment=self.segment,
            fit_tokens=self.fit_tokens,
        )


def check_temperature(temperature: float | str) -> None:
    """Raise OptionError unless a temperature is `fit` or a finite number above 0."""
    is_number = not isinstance(temperature, str) and 0 < temperature < math.inf
    if temperature != "fit" and not is_number:
        raise OptionError("temperature", "must be a number above 0, or fit", value=temperature)

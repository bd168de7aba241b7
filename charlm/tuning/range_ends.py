"""Best values at an end of what was searched: values beyond the end may be better."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from charlm.config.load import check_config
from charlm.config.schema import Config
from charlm.errors import ConfigError
from charlm.tuning.results import Trial, Tuning
from charlm.tuning.space import Range, Space, read_space, with_values

# Fraction of a range, on the scale of the search, that counts as its end, on each side.
_MARGIN = 0.05
# One of two values is always at an end.
_MIN_VALUES = 3


@dataclass(frozen=True)
class RangeEnd:
    """A searched setting whose best value is at an end of its range.

    Attributes:
        key: The setting.
        value: Its best value.
        side: Which end it is.
        end: Lowest or highest value that was searched.
    """

    key: str
    value: float
    side: Literal["lower", "upper"]
    end: float


def range_ends(tuning: Tuning) -> list[RangeEnd]:
    """Return the settings whose best value is at an end beyond which there are other values.

    A value of a range is at an end if it is within 5 % of it, on the scale of the search; one of
    three or more numbers, if it is the lowest or the highest. A setting of which fewer than three
    values have a loss is left out.
    """
    best = tuning.best
    if best is None or best.outcome != "finished":
        return []
    data = tuning.config.model_dump(mode="json", exclude_unset=True)
    spaces = {key: read_space(key, text, data) for key, text in tuning.space.items()}
    scored = [trial for trial in tuning.trials if trial.loss_nats is not None]
    ends = [
        _end_of(key, space, best, tuning.config)
        for key, space in spaces.items()
        if len({str(trial.values.get(key)) for trial in scored}) >= _MIN_VALUES
    ]
    return [end for end in ends if end is not None]


def _end_of(key: str, space: Space, best: Trial, config: Config) -> RangeEnd | None:
    """Return the end of a space at which the best value is; None if it is at none."""
    bounds = space if isinstance(space, Range) else space.as_range()
    if bounds is None:
        return None
    margin = _MARGIN if isinstance(space, Range) else 0.0
    value = best.values[key]
    position = bounds.position(value)
    if position <= margin:
        end, beyond = RangeEnd(key, value, "lower", bounds.low), bounds.value_at(-_MARGIN)
    elif position >= 1 - margin:
        end, beyond = RangeEnd(key, value, "upper", bounds.high), bounds.value_at(1 + _MARGIN)
    else:
        return None
    return end if _is_valid(config, {**best.values, key: beyond}) else None


def _is_valid(config: Config, values: Mapping[str, Any]) -> bool:
    """Return whether a configuration allows other values."""
    data = with_values(config.model_dump(mode="json", exclude_unset=True), values)
    try:
        check_config(data, "a wider range")
    except ConfigError:
        return False
    return True

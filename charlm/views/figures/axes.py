"""Axes: from values to pixels, and the labels along them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from charlm.views.figures.numbers import format_tick, log_ticks, ticks


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a chart.

    Attributes:
        title: Quantity and unit.
        is_log: Whether the axis is logarithmic; its title then says so.
        from_zero: Whether a linear axis begins at 0.
        whole: Whether ticks are whole numbers.
        limits: Ends of the axis; None for those of the values.
    """

    title: str
    is_log: bool = False
    from_zero: bool = False
    whole: bool = False
    limits: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """The title, with a note on a logarithmic axis."""
        return f"{self.title} (log)" if self.is_log else self.title


@dataclass(frozen=True)
class Scale:
    """A map from values to pixels.

    Attributes:
        low: Value at the beginning of the axis.
        high: Value at its end.
        first: Pixel at the beginning.
        last: Pixel at the end.
        is_log: Whether the map is logarithmic.
    """

    low: float
    high: float
    first: float
    last: float
    is_log: bool

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.first + (value - low) / (high - low) * (self.last - self.first)


def scale_of(values: Sequence[float], axis: Axis, first: float, last: float) -> Scale:
    """Return the scale of an axis on which all values have a place.

    Args:
        values: Values; on a logarithmic axis above 0.
        axis: The axis.
        first: Pixel at its beginning.
        last: Pixel at its end; less than `first` for a vertical axis, which has a margin.
    """
    if axis.limits:
        return Scale(*axis.limits, first, last, is_log=axis.is_log)
    low, high = min(values, default=1.0), max(values, default=1.0)
    if axis.is_log:
        if low == high:
            low, high = low / 2, high * 2
        return Scale(low, high, first, last, is_log=True)
    if axis.from_zero:
        low = min(0.0, low)
    if low == high:
        distance = max(1.0, abs(high) / 1e3)  # A diverged run has values such as 1e304.
        low, high = low - (0 if axis.from_zero and low == 0 else distance), high + distance
    is_vertical = first > last
    margin = 0.03 * (high - low) if is_vertical else 0.0
    lowest = low if axis.from_zero and low == 0 else low - margin
    return Scale(lowest, high + margin, first, last, is_log=False)


def tick_labels(scale: Scale, axis: Axis, *, count: int) -> list[tuple[float, str]]:
    """Return about `count` values of an axis with their labels."""
    if axis.is_log:
        return [(value, format_tick(value, 0)) for value in log_ticks(scale.low, scale.high)]
    values = ticks(scale.low, scale.high, count, whole=axis.whole)
    step = values[1] - values[0] if len(values) > 1 else 0
    return [(value, format_tick(value, step)) for value in values]

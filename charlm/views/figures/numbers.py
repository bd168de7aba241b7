"""Numbers of a chart: round numbers along an axis, and numbers as short text."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return about `count` round numbers from `low` to `high`, and more where that would be one.

    >>> ticks(0, 72)
    [0, 20, 40, 60]
    >>> ticks(1.93, 3.7)
    [2.0, 2.5, 3.0, 3.5]
    >>> ticks(6, 379, 3)
    [100, 200, 300]
    """
    values: list[float] = []
    for steps in (max(1, count), 2 * count):
        if len(values) < 2:
            step = _round_step((high - low) / steps, whole=whole)
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            values = [round(number * step, 12) for number in range(first, last + 1)]
    return values


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, or 1, 2 and 5 times powers of ten where there are few.

    >>> log_ticks(1, 1000)
    [1.0, 10.0, 100.0, 1000.0]
    >>> log_ticks(1, 20)
    [1.0, 2.0, 5.0, 10.0, 20.0]
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    decades = [10.0**power for power in powers]
    inside = [value for value in decades if low * 0.999 <= value <= high * 1.001]
    if len(inside) >= 3:
        return inside[:: -(-len(inside) // 6)]
    fine = [factor * decade for decade in decades for factor in (1, 2, 5)]
    return [value for value in fine if low * 0.999 <= value <= high * 1.001]


def format_tick(value: float, step: float) -> str:
    """Return a tick's label with the decimals that distinguish it from its neighbour.

    >>> format_tick(2, 0.5), format_tick(4000, 1000), format_tick(0.00001, 0)
    ('2.0', '4,000', '10⁻⁵')
    """
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return format_number(value, 1).removeprefix("1·")
    if step:
        return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    return f"{value:,g}"


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with at most `digits` digits, and a large one in full.

    >>> format_number(52961.3), format_number(0.0021), format_number(4.806e-07)
    ('52,961', '0.0021', '4.81·10⁻⁷')
    >>> format_number(999.7), format_number(123.4, 2)
    ('1,000', '123')
    """
    # From here on, `g` would write an exponent: 1e+03.
    is_large = abs(value) >= 10**digits - 0.5
    if value == 0 or not math.isfinite(value) or (abs(value) >= 1e-3 and not is_large):
        return f"{value:.{digits}g}"
    if is_large and abs(value) < 1e6:
        return f"{value:,.0f}"
    factor, power = f"{value:.{digits - 1}e}".split("e")
    return f"{factor}·10{str(int(power)).translate(_SUPERSCRIPTS)}"


def _round_step(step: float, *, whole: bool) -> float:
    """Return 1, 2 or 5 times a power of ten that is at least `step`."""
    if step <= 0 or not math.isfinite(step):
        return 1
    power = 10.0 ** math.floor(math.log10(step))
    rounded = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
    return max(1, round(rounded)) if whole or rounded >= 1 else rounded

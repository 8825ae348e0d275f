"""Where values lie on a chart's axis, which round numbers stand beside it, and how numbers are written there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hanbit.common.units import readable_count

Scale = Literal["range", "zero", "log"]


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, and round ticks between them."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def part(self, value: float) -> float:
        """Where `value` lies, 0 at the low end, 1 at the high end."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def step_axis(last: float) -> Axis:
    """From 0 to `last`, ticks at whole steps."""
    high = max(last, 1.0)
    gap = max(1.0, _round_gap(high))
    return Axis(0.0, high, tuple(gap * i for i in range(math.floor(high / gap + 1e-9) + 1)))


def value_axis(values: Sequence[float], scale: Scale) -> Axis:
    """From tick to tick, with every value inside. `values`: finite, at least one.

    "range" shows the values' own range, "zero" starts at 0, "log" has equal ratios equally far apart (one spike leaves
    the rest readable) and falls back to "zero" where a value is not above 0.
    """
    low, high = min(values), max(values)
    if scale == "log" and low > 0:
        return _log_axis(low, high)
    low = low if scale == "range" else min(low, 0.0)
    high = 1.0 if low == high == 0 else high
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # a flat line runs through the middle
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    gap = _round_gap(high - low)
    ticks = tuple(gap * i for i in range(math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9) + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _log_axis(low: float, high: float) -> Axis:
    """Ticks at 1, 2 and 5 times the powers of ten; over wide ranges only at powers, then at every n-th."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = 1 + (last - first) // 8
    for factors in ((1, 2, 5), (1,)):
        powers = range(first - 1, last + stride + 1, stride)  # one more on either side: rounding of the logarithm
        marks = sorted(float(f"{factor}e{power}") for power in powers for factor in factors)
        bottom = max(mark for mark in marks if mark <= low)
        top = min(mark for mark in marks if mark >= high and mark > bottom)
        ticks = tuple(mark for mark in marks if bottom <= mark <= top)
        if len(ticks) <= 7:
            break
    return Axis(bottom, top, ticks, is_log=True)


def _round_gap(span: float) -> float:
    """1, 2 or 5 times a power of ten that divides `span` into at most 5."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def reading(value: float) -> str:
    """Five digits of a value, three of a very small or large one: 4.2513, 0.0003, 2.98e-5, 20.5K, 3e20."""
    if 1e4 <= abs(value) < 1e15:
        return readable_count(value)
    return f"{value:.5g}" if 1e-4 <= abs(value) < 1e4 else _scientific(value)


def tick_text(tick: float, axis: Axis) -> str:
    """Short, and different for different ticks."""
    if axis.is_log:
        return reading(tick)
    largest, gap = max(abs(axis.low), abs(axis.high)), axis.ticks[1] - axis.ticks[0]
    if (largest >= 1e4 or largest < 0.01) and gap >= largest / 100:
        return readable_count(tick) if 1e4 <= largest < 1e15 else _scientific(round(tick / gap) * gap)
    return f"{tick:,.{max(0, -math.floor(math.log10(gap) + 1e-9))}f}"


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"

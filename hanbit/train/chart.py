"""Line charts as SVG text: no library, no script, readable in light and dark."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 30
MOST_POINTS = 600  # of one line; more cannot be seen in 640 pixels

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """`kind` is a CSS class: its colour, and whether it is drawn with dots."""

    label: str
    points: Sequence[Point]
    kind: str = "first"


def chart(lines: Sequence[Line]) -> str:
    """One SVG with the lines over common axes; a sentence where there is nothing to draw."""
    lines = [Line(line.label, finite(line.points), line.kind) for line in lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return '<p class="empty">&ndash;</p>'
    x_axis = _axis([x for x, _ in points], is_whole=True)
    y_axis = _axis([y for _, y in points])
    parts = [*_grid(x_axis, y_axis), *(_drawn(line, x_axis, y_axis) for line in lines if line.points)]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS, the smallest and the largest of every stretch kept, so that no spike is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    ticks: tuple[float, ...]


def _axis(values: Sequence[float], is_whole: bool = False) -> Axis:
    """Bounds and round tick values (1, 2 or 5 times a power of ten apart)."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    step = max(1.0, round(step)) if is_whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(step * index for index in range(first, last + 1)))


def _x(value: float, axis: Axis) -> float:
    return LEFT + (value - axis.low) / (axis.high - axis.low) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - (value - axis.low) / (axis.high - axis.low) * (HEIGHT - TOP - BOTTOM)


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = []
    for tick in y_axis.ticks:
        y = _y(tick, y_axis)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_axis.ticks:
        parts.append(f'<text x="{_x(tick, x_axis):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{tick:.0f}</text>')
    return parts


def _drawn(line: Line, x_axis: Axis, y_axis: Axis) -> str:
    points = thinned(line.points)
    path = " ".join(f"{_x(x, x_axis):.1f},{_y(y, y_axis):.1f}" for x, y in points)
    label = html.escape(line.label)
    dots = ""
    if line.kind == "second" or len(points) == 1:
        dots = "".join(
            f'<circle class="{line.kind}" cx="{_x(x, x_axis):.1f}" cy="{_y(y, y_axis):.1f}" r="3">'
            f"<title>{label} {x:.0f}: {y:.5g}</title></circle>"
            for x, y in points
        )
    return f'<polyline class="{line.kind}" points="{path}"><title>{label}</title></polyline>{dots}'

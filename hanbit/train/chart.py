"""Line charts as SVG text: no library, no script, readable in light and dark.

Every drawn point carries its reading ("1,200 step · 9.83M tokens · 4.2513 training") as a <title>: a browser shows it
by itself, and the page's script reads the same words.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hanbit.common.units import readable_count
from hanbit.train.axis import Axis, Scale, reading, step_axis, tick_text, value_axis

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 28
MOST_POINTS = 600  # of one line; more cannot be seen in 480 units, and 5 lines of them stay under 400 kB


class Point(NamedTuple):
    """`tokens` seen until `step`; None where the file does not tell."""

    step: float
    value: float
    tokens: float | None = None


@dataclass(frozen=True)
class Line:
    """`kind` is a CSS class: "first" is drawn plain, "second" dashed and with dots."""

    label: str
    points: Sequence[Point]
    kind: str = "first"


def chart(title: str, lines: Sequence[Line], last_step: float, words: tuple[str, str], scale: Scale = "range") -> str:
    """One SVG with the lines over common axes, steps 0 to `last_step`; "" where there is nothing to draw.

    words: what "step" and "tokens" are called in the readings. All texts are escaped here. scale: see `value_axis`.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    points = [point for line in lines for point in line.points]
    values = _settled(points, last_step) if scale == "range" else [point.value for point in points]
    x_axis, y_axis = step_axis(last_step), value_axis(values, scale)
    first, last = lines[0].points[0].value, lines[0].points[-1].value
    label = html.escape(f"{title}: {reading(first)} → {reading(last)}")
    drawn = "".join(_drawn(line, x_axis, y_axis, words) for line in lines)
    cross = f'<line class="cross" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{label}">'
        f"{_grid(x_axis, y_axis)}{cross}{drawn}{_above(points, y_axis)}</svg>"
    )


def _settled(points: Sequence[Point], last_step: float) -> list[float]:
    """What the axis must show: of a long run, not the heights of its first hundredth.

    A loss that falls from 10 to 3 in the first of 100 000 steps would leave all that follows in one flat line.
    """
    start = last_step / 100 if last_step >= 1000 else 0
    return [point.value for point in points if point.step > start] + [min(point.value for point in points)]


def _above(points: Sequence[Point], axis: Axis) -> str:
    """Tells how high the line goes where the axis ends below it."""
    largest = max(point.value for point in points)
    return (
        f'<text class="above" x="{LEFT + 6}" y="{TOP + 12}">↑ {reading(largest)}</text>' if largest > axis.high else ""
    )


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS: the ends, and the smallest and largest of every stretch, so that no spike is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    inner = points[1:-1]
    size = math.ceil(2 * len(inner) / (MOST_POINTS - 2))
    kept = [points[0]]
    for start in range(0, len(inner), size):
        places = range(start, min(start + size, len(inner)))
        extremes = {min(places, key=lambda i: inner[i].value), max(places, key=lambda i: inner[i].value)}
        kept += [inner[i] for i in sorted(extremes)]
    return [*kept, points[-1]]


def _x(value: float, axis: Axis) -> float:
    return LEFT + axis.part(value) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - min(axis.part(value), 1.0) * (HEIGHT - TOP - BOTTOM)


def _grid(x_axis: Axis, y_axis: Axis) -> str:
    parts = []
    for tick in y_axis.ticks:
        y = _y(tick, y_axis)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="y" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick_text(tick, y_axis)}</text>'
        )
    for tick in x_axis.ticks:
        x = _x(tick, x_axis)
        anchor = "end" if x > WIDTH - 2 * RIGHT else "middle"
        x = min(x, WIDTH - RIGHT + 4)
        parts.append(
            f'<text class="x" x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{tick_text(tick, x_axis)}</text>'
        )
    return "".join(parts)


def _drawn(line: Line, x_axis: Axis, y_axis: Axis, words: tuple[str, str]) -> str:
    points = thinned(line.points)
    places = [(f"{_x(point.step, x_axis):.1f}", f"{_y(point.value, y_axis):.1f}") for point in points]
    path = " ".join(f"{x},{y}" for x, y in places)
    floor = HEIGHT - BOTTOM
    is_filled = y_axis.low == 0 and line.kind == "first"  # a filled height means "so much above nothing"
    area = f'<polygon points="{places[0][0]},{floor} {path} {places[-1][0]},{floor}"/>' if is_filled else ""
    dots = "".join(
        f'<circle cx="{x}" cy="{y}"><title>{_said(point, words, line.label)}</title></circle>'
        for point, (x, y) in zip(points, places, strict=True)
    )
    kind = line.kind + (" lone" if len(points) == 1 else " dense" if len(points) < len(line.points) else "")
    return f'<g class="{html.escape(kind)}">{area}<polyline points="{path}"/>{dots}</g>'


def _said(point: Point, words: tuple[str, str], label: str) -> str:
    tokens = "–" if point.tokens is None else readable_count(point.tokens)
    return html.escape(f"{point.step:,.0f} {words[0]} · {tokens} {words[1]} · {reading(point.value)} {label}")

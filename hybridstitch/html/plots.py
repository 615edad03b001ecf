"""The plots of the pages, as SVG that takes its colours from the page.

Titles must be words of this project: the SVG is markup that a template does not escape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

WIDTHS = {"wide": 900, "narrow": 340}
"""Widths in pixels. Every plot comes once for a desktop and once for a phone, so that its text stays readable."""
ROW, AXIS = 92, 30
MOST_BINS = 40


def latency(seconds: Mapping[str, Sequence[float]]) -> Markup:
    """A histogram of seconds for each side over one axis, its median marked."""
    values = {side: each for side, each in seconds.items() if len(each)}
    if not values:
        return Markup()
    together = [second for each in values.values() for second in each]
    low, high = min(together), max(together)
    low, high = max(0.0, low - 0.08 * (high - low or high)), high + 0.08 * (high - low or high)
    medians = ", ".join(f"{side.upper()} {np.median(each):.3g} s" for side, each in values.items())
    title = f"Histograms of latency; medians: {medians}"
    return Markup("".join(_latency(name, width, values, low, high, title) for name, width in WIDTHS.items()))


def _latency(name: str, width: int, values: Mapping[str, Sequence[float]], low: float, high: float, title: str) -> str:
    def x(second: float) -> float:
        return 24 + (width - 36) * (second - low) / (high - low)

    edges = np.linspace(low, high, min(MOST_BINS, width // 12) + 1)
    counts = {side: np.histogram(each, edges)[0] for side, each in values.items()}
    most = max(int(each.max()) for each in counts.values())
    shapes = []
    for row, (side, each) in enumerate(counts.items()):
        base = ROW * (row + 1) - 8
        for count, left, right in zip(each, edges, edges[1:], strict=False):
            if count:
                tall = max(2.0, (ROW - 34) * count / most)
                box = f'x="{x(left) + 0.5:.1f}" y="{base - tall:.1f}" width="{x(right) - x(left) - 1:.1f}"'
                shapes.append(f'<rect class="bar {side}" {box} height="{tall:.1f}" rx="1.5"/>')
        median = float(np.median(values[side]))
        anchor = "start" if x(median) < width / 2 else "end"
        shift = 6 if anchor == "start" else -6
        shapes.append(f'<line class="base" x1="20" x2="{width - 8}" y1="{base}" y2="{base}"/>')
        shapes.append(f'<text class="side {side}" x="2" y="{base - 4}">{side.upper()}</text>')
        shapes.append(
            f'<line class="median" x1="{x(median):.1f}" x2="{x(median):.1f}" y1="{base - ROW + 16}" y2="{base}"/>'
        )
        shapes.append(
            f'<text class="value" x="{x(median) + shift:.1f}" y="{base - ROW + 24}" text-anchor="{anchor}">'
            f"median {_number(median)} s</text>"
        )
    bottom = ROW * len(counts)
    for tick in ticks(low, high, width // 65):
        shapes.append(f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 12}" text-anchor="middle">{tick:g} s</text>')
    return _svg(name, width, bottom + AXIS - 10, title, shapes)


def intervals(rows: Sequence[tuple[str, float, float, float, float | None]]) -> Markup:
    """Means as dots on lines, their intervals, the limits as ticks. Rows: title, value, low, high, limit."""
    shown = [row for row in rows if not math.isnan(row[1])]
    return Markup("".join(_intervals(name, width, shown) for name, width in WIDTHS.items() if shown))


def _intervals(name: str, width: int, rows: Sequence[tuple[str, float, float, float, float | None]]) -> str:
    shapes, height = [], 0
    for title, value, low, high, limit in rows:
        low, high = (value if math.isnan(each) else each for each in (low, high))
        marks = [low, high, *([] if limit is None else [limit])]
        left, right = min(marks), max(marks)
        margin = 0.15 * (right - left or abs(value) or 1)
        left, right = left - margin, right + margin

        def x(number: float, left: float = left, right: float = right) -> float:
            return 8 + (width - 16) * (number - left) / (right - left)

        y = height + 38
        shapes.append(f'<text class="side" x="8" y="{height + 16}">{title}</text>')
        shapes.append(f'<line class="base" x1="8" x2="{width - 8}" y1="{y}" y2="{y}"/>')
        shapes.append(f'<line class="range" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}"/>')
        shapes.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{y}" r="5"/>')
        if limit is not None:
            shapes.append(f'<line class="limit" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="{y - 12}" y2="{y + 12}"/>')
            anchor = "start" if x(limit) < 70 else "end" if x(limit) > width - 70 else "middle"
            place = f'x="{x(limit):.1f}" y="{y + 26}" text-anchor="{anchor}"'
            shapes.append(f'<text class="tick" {place}>limit {_number(limit)}</text>')
        height += 72 if limit is not None else 56
    titles = "; ".join(f"{row[0]} {_number(row[1])}, interval {_number(row[2])} to {_number(row[3])}" for row in rows)
    return _svg(name, width, height, titles, shapes)


def lines(points: Sequence[float], reference: float | None, title: str, most: float = math.inf) -> Markup:
    """A plot of one value for each window of time, with a level to compare it with.

    most: The largest possible value, where the axis ends.
    """
    marks = [point for point in points if not math.isnan(point)]
    if not marks:
        return Markup()
    marks += [] if reference is None else [reference]
    low, high = min(marks), max(marks)
    margin = 0.15 * (high - low or abs(high) or 1)
    ends = low - margin, min(high + margin, most)
    return Markup("".join(_lines(name, width, points, ends, reference, title) for name, width in WIDTHS.items()))


def _lines(
    name: str,
    width: int,
    points: Sequence[float],
    ends: tuple[float, float],
    reference: float | None,
    title: str,
) -> str:
    low, high = ends
    tall = 150

    def at(index: int, value: float) -> tuple[float, float]:
        across = index / max(1, len(points) - 1)
        return 52 + (width - 66) * across, 12 + (tall - 24) * (1 - (value - low) / (high - low))

    places = [at(index, value) for index, value in enumerate(points) if not math.isnan(value)]
    shapes = []
    for tick in ticks(low, high, 4):
        y = at(0, tick)[1]
        shapes.append(f'<line class="base" x1="52" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="tick" x="46" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    if reference is not None:
        y = at(0, reference)[1]
        shapes.append(f'<line class="limit" x1="52" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    shapes.append(f'<polyline class="trace" points="{path}"/>')
    shapes += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
    return _svg(name, width, tall, title, shapes)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within a range, about `most` of them."""
    step = 10 ** math.floor(math.log10((high - low) / max(1, most)))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (step * factor) <= max(1, most))
    return [round(step * number, 10) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _svg(name: str, width: int, height: float, title: str, shapes: Sequence[str]) -> str:
    frame = f'class="plot {name}" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}"'
    return f'<svg {frame} role="img" aria-label="{title}">{"".join(shapes)}</svg>'

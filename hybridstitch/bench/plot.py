"""The plot of a bench: fidelity to the large model over the saving in FLOPs, a line for each family of contenders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridstitch.base.extras import extra
from hybridstitch.bench.specs import BY_SPEED, CACHE_DIT
from hybridstitch.bench.table import Row
from hybridstitch.measure.pixels import EQUAL_DB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b")
"""Colours of families, which colour-blind readers can tell apart."""
MARKERS = "os^Dv<>P"
OTHER, WORDS = "#8a94a0", "#3c454e"
FONT = 9
REACHES = (5, 12, 22, 34, 48, 64)
"""Distances in points at which a name may stand. The nearest free place is taken."""
WITHOUT_LINE = 12
"""Distance in points up to which no line connects a name with its dot."""
SIDES = tuple(side for side in product((1, -1, 0), (1, -1, 0)) if any(side))
"""Directions from a dot to its name, horizontal and vertical."""


def plot(found: Sequence[Row], path: Path) -> None:
    """Write the chart as a PNG. Raises MissingExtra without matplotlib."""
    with extra("bench"):
        import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = chart(found)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def chart(found: Sequence[Row]) -> Figure:
    """Return a figure of PSNR over the saving in FLOPs.

    Contenders that differ in their speed alone are a family: a line, named in the legend. Each of the others has its
    name beside its dot. Filled dots belong to the Pareto front. Contenders that need as many FLOPs as the large model
    have no dot, nor have those with identical pictures.
    """
    import matplotlib.pyplot as plt

    shown = [row for row in found if row.cost < 1 and row.whole.psnr_db.value < EQUAL_DB]
    best = {row.contender for row in front(shown)}
    families: dict[str, list[Row]] = {}
    for row in shown:
        families.setdefault(family(row.contender), []).append(row)
    lines = {name: rows for name, rows in families.items() if len(rows) > 1}
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for number, (name, rows) in enumerate(lines.items()):
        rows.sort(key=lambda row: -row.cost)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(*_points(rows), "-", marker=marker, markersize=5.5, color=colour, linewidth=1.6, label=name)
        _dots(axes, rows, best, colour, marker)
    alone = [row for row in shown if family(row.contender) not in lines]
    _dots(axes, alone, best, OTHER, "o")
    axes.plot([], [], "o", color=WORDS, label="filled: best for its cost")
    axes.plot([], [], "o", color=WORDS, markerfacecolor="white", label="others")
    axes.margins(0.08, 0.08)
    axes.set_xlabel("times fewer FLOPs than the large model at all steps")
    axes.set_ylabel("PSNR to the large model's own picture, dB (with 95 % interval)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=FONT, framealpha=1)
    _name(axes, shown, alone)
    return figure


def family(contender: str) -> str:
    """Return the name that a contender shares with those that differ from it in their speed alone."""
    if contender.startswith(BY_SPEED):
        return "speed dial"
    if contender.startswith(CACHE_DIT):
        settings = contender.removeprefix(CACHE_DIT).split(",")
        others = [each.removeprefix("calibrator=") for each in settings if not each.startswith("threshold=")]
        return ", ".join(["cache-dit", *filter(None, others)])
    name, _, solver = contender.partition("/")
    recipe = re.split("[~@]", name)[0]
    words = "large, fewer steps" if recipe == "large" else recipe
    return f"{words} ({solver})" if solver else words


def _points(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [1 / row.cost for row in rows], [row.whole.psnr_db.value for row in rows]


def _dots(axes: Axes, rows: Sequence[Row], best: set[str], colour: str, marker: str) -> None:
    for row in rows:
        near, face = row.whole.psnr_db, colour if row.contender in best else "white"
        ends = [[max(0.0, near.value - near.low)], [max(0.0, near.high - near.value)]]
        looks: dict[str, Any] = {
            "color": colour,
            "markerfacecolor": face,
            "markersize": 5.5,
            "capsize": 2,
            "elinewidth": 1.0,
        }
        axes.errorbar(1 / row.cost, near.value, ends, fmt=marker, zorder=3, **looks)


def front(found: Sequence[Row]) -> list[Row]:
    """Return the Pareto front of cost and PSNR, the most expensive row first."""
    best: list[Row] = []
    for row in sorted(found, key=lambda row: (row.cost, -row.whole.psnr_db.value)):
        if not best or row.whole.psnr_db.value > best[0].whole.psnr_db.value:
            best.insert(0, row)
    return best


def _name(axes: Axes, shown: Sequence[Row], alone: Sequence[Row]) -> None:
    """Write the names of some rows where they cover no dot, no line and no other name, within the frame."""
    from matplotlib.text import Text

    canvas: Any = axes.figure.canvas
    canvas.draw()  # fixes the layout, and with it the positions in pixels
    scale = axes.figure.dpi / 72
    legend = axes.get_legend()
    taken = [np.asarray(legend.get_window_extent().extents)] if legend else []
    dots = []
    for row in shown:
        near = row.whole.psnr_db
        ends = [(1 / row.cost, value) for value in (near.value, near.low, near.high)]
        (x, y), (_, low), (_, high) = axes.transData.transform(ends)
        dots.append((x, y))
        taken += [np.array([x - 4, y - 4, x + 4, y + 4]), np.array([x - 2, low, x + 2, high])]
    for line in axes.get_lines():
        if line.get_linestyle() == "-":
            taken += _boxes_along(axes.transData.transform(np.column_stack(line.get_data())))
    names: list[np.ndarray] = []
    for row, (x, y) in zip(shown, dots, strict=True):
        if row not in alone:
            continue
        text = axes.annotate(
            row.contender,
            (1 / row.cost, row.whole.psnr_db.value),
            (0, 0),
            textcoords="offset points",
            fontsize=FONT,
            color=WORDS,
            arrowprops={"arrowstyle": "-", "color": "#8a94a0", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
        size = Text.get_window_extent(text)  # of the text alone, without the line
        boxes = _places(x, y, size.width, size.height, scale)
        penalty = _covered(boxes, np.stack(taken), np.asarray(axes.get_window_extent().extents))
        penalty += [_crossed(np.array([x, y]), box, names) for box in boxes]
        best = int(np.argmin(penalty))
        taken.append(boxes[best])
        names.append(boxes[best])
        text.set_position(((boxes[best][0] - x) / scale, (boxes[best][1] - y) / scale))
        if REACHES[best // len(SIDES)] > WITHOUT_LINE:
            middle = (boxes[best][:2] + boxes[best][2:]) / 2
            taken += _boxes_along(np.array([(x, y), middle]))
        elif text.arrow_patch:
            text.arrow_patch.set_visible(False)


def _crossed(dot: np.ndarray, box: np.ndarray, names: list[np.ndarray]) -> float:
    """Return the area in pixels of other names that the line from a dot to the box of its name would cross."""
    if not names:
        return 0.0
    line = np.stack(_boxes_along(np.stack([dot, (box[:2] + box[2:]) / 2])))
    everywhere = np.array([-np.inf, -np.inf, np.inf, np.inf])
    return float(_covered(line, np.stack(names), everywhere).sum())


def _boxes_along(points: np.ndarray) -> list[np.ndarray]:
    """Return small boxes (left, bottom, right, top) in pixels that cover a line through these points."""
    found = []
    for start, end in pairwise(points):
        steps = max(1, int(np.abs(end - start).max() // 6))
        found += [np.concatenate([each - 3, each + 3]) for each in np.linspace(start, end, steps + 1)]
    return found


def _places(x: float, y: float, width: float, height: float, scale: float) -> np.ndarray:
    """Return boxes (left, bottom, right, top) around a dot in pixels, `(places, 4)`, the nearest first."""
    across, up = np.array([[reach * side[axis] for reach in REACHES for side in SIDES] for axis in (0, 1)]) * scale
    sides = np.array(SIDES * len(REACHES))
    left = x + across - width * (1 - sides[:, 0]) / 2
    bottom = y + up - height * (1 - sides[:, 1]) / 2
    return np.stack([left, bottom, left + width, bottom + height], axis=1)


def _covered(boxes: np.ndarray, taken: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return the penalty of each box: its overlap with taken boxes in pixels, and far more outside of the frame."""
    low, high = np.maximum(boxes[:, None, :2], taken[None, :, :2]), np.minimum(boxes[:, None, 2:], taken[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1).sum(axis=1)
    outside = np.concatenate([frame[:2] - boxes[:, :2], boxes[:, 2:] - frame[2:]], axis=1)
    return shared + 1e6 * np.clip(outside, 0, None).max(axis=1)

"""The plot of a bench: fidelity to the large model over the saving in FLOPs, a dot for each contender."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridstitch.base.extras import extra
from hybridstitch.bench.table import Row
from hybridstitch.measure.pixels import EQUAL_DB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, OTHER = "#2563c9", "#8a94a0"
FONT = 8
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
    figure.savefig(path, dpi=120)
    plt.close(figure)


def chart(found: Sequence[Row]) -> Figure:
    """Return a figure of PSNR over the saving in FLOPs, with a dot, an interval and a name for each contender.

    Contenders that need as many FLOPs as the large model have no dot, nor have those with identical pictures. Blue dots
    belong to the Pareto front.
    """
    import matplotlib.pyplot as plt

    shown = [row for row in found if row.cost < 1 and row.whole.psnr_db.value < EQUAL_DB]
    best = front(shown)
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for row in shown:
        decibels, colour = row.whole.psnr_db, BEST if row in best else OTHER
        ends = [[max(0.0, decibels.value - decibels.low)], [max(0.0, decibels.high - decibels.value)]]
        axes.errorbar(1 / row.cost, decibels.value, ends, fmt="o", capsize=2, markersize=4.5, color=colour)
    steps = [1 / row.cost for row in best], [row.whole.psnr_db.value for row in best]
    axes.step(*steps, where="pre", color=BEST, alpha=0.35, zorder=0)
    for colour, label in ((BEST, "best for its cost"), (OTHER, "others")):
        axes.plot([], [], "o", color=colour, label=label)
    axes.margins(0.14, 0.1)
    axes.set_xlabel("times fewer FLOPs than the large model at all steps")
    axes.set_ylabel("PSNR to the large model's own picture, dB (with 95 % interval)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right", fontsize=FONT + 1, framealpha=1)
    _name(axes, shown, {row.contender: BEST if row in best else "#4a535d" for row in shown})
    return figure


def front(found: Sequence[Row]) -> list[Row]:
    """Return the Pareto front of cost and PSNR, the most expensive row first."""
    best: list[Row] = []
    for row in sorted(found, key=lambda row: (row.cost, -row.whole.psnr_db.value)):
        if not best or row.whole.psnr_db.value > best[0].whole.psnr_db.value:
            best.insert(0, row)
    return best


def _name(axes: Axes, shown: Sequence[Row], colours: dict[str, str]) -> None:
    """Write every name where it covers no dot and no other name, within the frame."""
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
    for row, (x, y) in zip(shown, dots, strict=True):
        text = axes.annotate(
            row.contender,
            (1 / row.cost, row.whole.psnr_db.value),
            (0, 0),
            textcoords="offset points",
            fontsize=FONT,
            color=colours[row.contender],
            arrowprops={"arrowstyle": "-", "color": "#8a94a0", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
        size = Text.get_window_extent(text)  # of the text alone, without the line
        boxes = _places(x, y, size.width, size.height, scale)
        best = int(np.argmin(_covered(boxes, np.stack(taken), np.asarray(axes.get_window_extent().extents))))
        taken.append(boxes[best])
        text.set_position(((boxes[best][0] - x) / scale, (boxes[best][1] - y) / scale))
        if REACHES[best // len(SIDES)] <= WITHOUT_LINE and text.arrow_patch:
            text.arrow_patch.set_visible(False)


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

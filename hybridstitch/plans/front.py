from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory

FEWEST = 4
"""The fewest dense steps; a schedule with fewer steps is dense throughout."""


@dataclass(frozen=True)
class Front(Plan):
    """A number of dense steps: the first ones in a row, where the layout forms, the others evenly over the rest.

    On the large model's own schedule, so the dense steps at the beginning are exactly those of the large model.

    Args:
        dense: fraction of the steps that are dense, 0.01 to 1, rounded down to whole steps, but at least four, default
            1 / 1.83. More is slower, and closer to the large model's picture.
        start: fraction of the schedule that is dense at the beginning, 0 to 1 and at least one step, default 0.1. More
            leaves fewer dense steps to the rest: closer to the large model's layout, and further from its detail. No
            effect on speed.
    """

    type = "front"
    masked = False

    dense: Annotated[float, Range(0.01, 1)] = 1 / 1.83
    start: Annotated[float, Range(0, 1)] = 0.1

    def large_share(self, trajectory: Trajectory) -> float:
        return 1.0 if trajectory.now.index in self._dense_steps(trajectory.steps) else 0.0

    def _dense_steps(self, steps: int) -> set[int]:
        count = max(int(self.dense * steps + 1e-9), min(steps, FEWEST))
        first = min(count, max(1, round(self.start * steps)))
        gaps = count - first + 1
        return {*range(first), *(first - 1 + round((steps + 1 - first) * gap / gaps) for gap in range(1, gaps))}

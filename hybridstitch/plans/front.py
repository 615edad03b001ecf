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
    """A number of dense steps whose distances grow: close together at first, where the layout forms.

    On the large model's own schedule, so a dense step right after another one is exactly the large model's. Dense step
    n of N comes at the share `(n / N) ** curve` of the steps.

    Args:
        dense: fraction of the steps that are dense, 0.01 to 1, rounded down to whole steps, but at least four, default
            1 / 1.83. More is slower, and closer to the large model's picture.
        curve: how much the distances grow, 1 to 3, default 1.4; 1 is even. More gives closer layouts, and noise in the
            detail where the last distance gets long. No effect on speed.
    """

    type = "front"
    masked = False

    dense: Annotated[float, Range(0.01, 1)] = 1 / 1.83
    curve: Annotated[float, Range(1, 3)] = 1.4

    def large_share(self, trajectory: Trajectory) -> float:
        return 1.0 if trajectory.now.index in self.dense_steps(trajectory.steps) else 0.0

    def dense_steps(self, steps: int) -> list[int]:
        """The dense steps of a schedule of this many steps."""
        count = max(int(self.dense * steps + 1e-9), min(steps, FEWEST))
        found = [0]
        for place in range(1, count):
            found.append(max(found[-1] + 1, round(steps * (place / count) ** self.curve)))
        return found

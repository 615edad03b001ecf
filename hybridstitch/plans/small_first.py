from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class SmallFirst(Plan):
    """None of the tokens first, then all of them (T-Stitch, arXiv 2402.14167).

    small: fraction of the schedule before the large model takes over, 0 to 1, to the nearest whole step. More is
        faster; the layout is then the small model's, so the picture is not the one that the large model would have
        drawn.
    """

    type = "small-first"
    masked = False

    small: Annotated[float, Range(0, 1)] = 0.4

    def large_share(self, trajectory: Trajectory) -> float:
        return 0.0 if trajectory.now.index < round(self.small * trajectory.steps) else 1.0

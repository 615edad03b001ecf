from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class SmallFirst(Plan):
    """Small model first, then the large model for the rest (T-Stitch, arXiv 2402.14167).

    Args:
        small: fraction of the schedule before the large model takes over, 0 to 1, rounded to whole steps, default 0.4.
            More is faster. The layout becomes the small model's, so the picture is not the large model's.
    """

    type = "small-first"
    masked = False

    small: Annotated[float, Range(0, 1)] = 0.4

    def large_share(self, trajectory: Trajectory) -> float:
        return 0.0 if trajectory.now.index < round(self.small * trajectory.steps) else 1.0

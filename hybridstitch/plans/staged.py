from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.errors import Problem
from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Staged(Plan):
    """Large model first, then a share of the tokens, then none (HybridStitch, arXiv 2603.07815).

    The paper does not publish the fractions behind its speed-up of 1.83. With SD3.5-Large and SD3.5-Medium at
    1024 x 1024 pixels and 28 steps, these defaults need 1.85 times fewer FLOPs than the large model alone.

    Args:
        large: fraction of the schedule that is dense at the beginning, 0 to 1, default 0.15; above 0 at least one
            step. It fixes the layout. More is slower, and closer to the large model's picture.
        hybrid: fraction after that in which the large model renders `share` of the tokens, 0 to 1 - large, default
            0.25. The fill renders the rest of the schedule. More is slower, and closer to the large model's picture.
            0 is a plain switch from large to small, the order of SRDiffusion (arXiv 2505.19151).
        share: share of the tokens in the hybrid steps, 0 to 1, default 0.3, the paper's best point. More is slower,
            and closer to the large model's picture.
    """

    type = "staged"

    large: Annotated[float, Range(0, 1)] = 0.15
    hybrid: Annotated[float, Range(0, 1)] = 0.25
    share: Annotated[float, Range(0, 1)] = 0.3

    @property
    def masked(self) -> bool:
        return self.hybrid > 0 and 0 < self.share < 1

    def large_share(self, trajectory: Trajectory) -> float:
        dense = max(round(self.large * trajectory.steps), 1 if self.large else 0)
        if trajectory.now.index < dense:
            return 1.0
        return self.share if trajectory.now.index < dense + round(self.hybrid * trajectory.steps) else 0.0

    def problems(self, field: str) -> list[Problem]:
        found = super().problems(field)
        if not found and self.large + self.hybrid > 1:
            found = [Problem(f"{field}.hybrid", f"at most {1 - self.large:g}, as large is {self.large:g}", self.hybrid)]
        return found

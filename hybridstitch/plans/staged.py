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

    large: fraction of the schedule that the large model renders alone, 0 to 1; above 0 it is one step at least.
        It fixes the layout: more is closer to the large model's picture, and slower.
    hybrid: fraction of the schedule after that in which the large model renders only `share` of the tokens;
        `large + hybrid` is at most 1, the rest belongs to the fill alone. 0 is a plain switch from large to small
        (the order of SRDiffusion, arXiv 2505.19151).
    share: share of the tokens in the hybrid stage, 0 to 1. The paper names 30 % its best point.

    The stage fractions behind the paper's 1.83x are not public; these defaults need 1.85 times fewer FLOPs than
    plain SD3.5-Large, with SD3.5-Medium as the small model, at 1024 x 1024 pixels and 28 steps.
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

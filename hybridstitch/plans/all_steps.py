from __future__ import annotations

from dataclasses import dataclass

from hybridstitch.plans.base import Plan
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class AllSteps(Plan):
    """The large model renders every token at every step: plain SD3, the reference."""

    type = "all"
    masked = False

    def large_share(self, trajectory: Trajectory) -> float:
        return 1.0

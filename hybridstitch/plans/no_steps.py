from __future__ import annotations

from dataclasses import dataclass

from hybridstitch.plans.base import Plan
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class NoSteps(Plan):
    """The large model renders nothing: with fill `small`, this is plain SD3 with the small model."""

    type = "none"
    masked = False

    def large_share(self, trajectory: Trajectory) -> float:
        return 0.0

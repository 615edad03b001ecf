from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Routed(Plan):
    """The large model where a calibration found that the two models disagree most (TRACK, 2026).

    large: fraction of the steps that the large model renders, 0 to 1. More is closer to its picture, and slower.
    disagreement: relative distance of the two models' velocities over the schedule, 0 to 100 each, as
        `hybridstitch tune` measures it: the mean over eight calibration prompts and the guidance scales that it is
        given. Usually high at both ends: large, small, large again.
        The default is the shape that TRACK reports for models of many steps.
    """

    type = "routed"
    masked = False

    large: Annotated[float, Range(0, 1)] = 0.3
    disagreement: Annotated[tuple[float, ...], Range(0, 100)] = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.3, 0.4, 0.7, 0.9)

    def large_share(self, trajectory: Trajectory) -> float:
        steps, known = trajectory.steps, len(self.disagreement)
        ranked = sorted(range(steps), key=lambda step: (-self.disagreement[step * known // steps], step))
        return 1.0 if trajectory.now.index in ranked[: round(self.large * steps)] else 0.0

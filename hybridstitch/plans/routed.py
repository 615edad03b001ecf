from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Routed(Plan):
    """Dense steps where a calibration found that the two models disagree most (TRACK, 2026).

    Args:
        large: fraction of the steps that are dense, 0 to 1, default 0.3. More is slower, and closer to the large
            model's picture.
        disagreement: relative distance of the two models' velocities along the schedule, 1 to 10000 numbers from 0 to
            100. Steps with the highest values become dense; their number, and so the speed, stays the same.
            `hybridstitch tune` measures the values on eight calibration prompts at the given guidance scales. The
            default has the shape that TRACK reports for models of many steps: high at both ends.
    """

    type = "routed"
    masked = False

    large: Annotated[float, Range(0, 1)] = 0.3
    disagreement: Annotated[tuple[float, ...], Range(0, 100)] = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.3, 0.4, 0.7, 0.9)

    def large_share(self, trajectory: Trajectory) -> float:
        steps, known = trajectory.steps, len(self.disagreement)
        ranked = sorted(range(steps), key=lambda step: (-self.disagreement[step * known // steps], step))
        return 1.0 if trajectory.now.index in ranked[: round(self.large * steps)] else 0.0

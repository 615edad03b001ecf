from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class AdaptiveSwitch(Plan):
    """Large model until the latent settles, then none for good (SRDiffusion, arXiv 2505.19151).

    The paper's own formula is not public. Here the latent has settled once its velocity hardly turns any more: the
    relative L1 change of the large model's answer from one step to the next, times the number of steps, so that one
    threshold fits any number. (The latent itself moves faster towards the end of a shifted schedule, settled or not.)

    threshold: the change that calls for the switch, 0 to 100. More is faster.
    least: fraction of the schedule that the large model renders in any case, 0 to 1; two steps at least.
    """

    type = "adaptive-switch"
    masked = False
    adaptive = True

    threshold: Annotated[float, Range(0, 100)] = 2.5
    least: Annotated[float, Range(0, 1)] = 0.1

    def large_share(self, trajectory: Trajectory) -> float:
        index = trajectory.now.index
        if index < max(2, round(self.least * trajectory.steps)):
            return 1.0
        (_, before), (last, velocity) = trajectory.dense
        if last.index < index - 1:
            return 0.0
        change = (velocity - before).float().abs().mean() / before.float().abs().mean()
        return 1.0 if float(change) * trajectory.steps >= self.threshold else 0.0

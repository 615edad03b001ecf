from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class AdaptiveSwitch(Plan):
    """Large model until its velocity settles, then none for the rest (SRDiffusion, arXiv 2505.19151).

    The paper does not publish its criterion. Here it is the relative L1 change of the large model's velocity from one
    step to the next, times the number of steps, so that one threshold fits any schedule. The change of the latent
    would not do: with a shifted schedule it grows towards the end, whether the picture has settled or not.

    Args:
        threshold: the switch happens when the change falls below it, 0 to 100, default 2.5. A higher one switches
            earlier, which is faster and further from the large model's picture.
        least: fraction of the schedule that is dense in any case, 0 to 1 and at least two steps, default 0.1. More is
            slower, and closer to the large model's picture.
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

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Periodic(Plan):
    """A dense step every few steps, a fixed share of the tokens between (step caching; RAS, arXiv 2502.10389).

    Args:
        every: steps from one dense step to the next, 1 to 50, default 2. More is faster, and further from the large
            model's picture, as the fill continues from older predictions.
        start: fraction of the schedule that is dense at the beginning, where the layout forms, 0 to 1 and at least one
            step, default 0.1. More is slower, and closer to the large model's layout.
        end: fraction that is dense at the end, where fine detail forms, 0 to 1, default 0.04. More is slower, and
            closer to the large model's detail.
        share: share of the tokens at the steps between, 0 to 1, default 0, which leaves them all to the fill. More is
            slower, and closer to the large model's picture.
    """

    type = "periodic"

    every: Annotated[int, Range(1, 50)] = 2
    start: Annotated[float, Range(0, 1)] = 0.1
    end: Annotated[float, Range(0, 1)] = 0.04
    share: Annotated[float, Range(0, 1)] = 0.0

    @property
    def masked(self) -> bool:
        return 0 < self.share < 1

    def large_share(self, trajectory: Trajectory) -> float:
        first = max(1, round(self.start * trajectory.steps))
        index = trajectory.now.index
        dense = index < first or index >= trajectory.steps - round(self.end * trajectory.steps)
        return 1.0 if dense or (index - first + 1) % self.every == 0 else self.share

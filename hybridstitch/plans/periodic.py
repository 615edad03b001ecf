from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Periodic(Plan):
    """A dense step every so often, a share of the tokens between: reuse of steps, and RAS (arXiv 2502.10389).

    every: steps from one dense step to the next, 1 to 50. More is faster; what the fill says gets staler.
    start: fraction of the schedule that is dense at the beginning, 0 to 1, while the layout forms; one step at least.
    end: fraction that is dense at the end, 0 to 1, where fine detail is decided.
    share: share of the tokens at the steps between, 0 to 1. 0 leaves them to the fill alone.
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

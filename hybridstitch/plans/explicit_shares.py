from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class ExplicitShares(Plan):
    """A list of shares along the schedule, written out: the plan that `hybridstitch tune` stores.

    For another number of steps the list is resampled. Dense steps keep their relative position and their fraction of
    the schedule, and the other shares spread over the other steps.

    Args:
        shares: 1 to 10000 numbers from 0 to 1, the first for the start, default (1, 1, 0.3, 0, 0). Where the list is as
            long as the schedule, each is one step. Higher shares are slower, and closer to the large model's picture.
    """

    type = "listed"

    shares: Annotated[tuple[float, ...], Range(0, 1)] = (1.0, 1.0, 0.3, 0.0, 0.0)

    @property
    def masked(self) -> bool:
        return any(0 < share < 1 for share in self.shares)

    def large_share(self, trajectory: Trajectory) -> float:
        index, steps = trajectory.now.index, trajectory.steps
        before = self._dense_before(index, steps)
        if self._dense_before(index + 1, steps) > before:
            return 1.0
        others = [share for share in self.shares if share < 1]
        return others[(index - before) * len(others) // (steps - self._dense_before(steps, steps))]

    def _dense_before(self, index: int, steps: int) -> int:
        """The number of dense steps among the first `index` of `steps`."""
        scale = len(self.shares) / steps
        end = index * scale
        passed = sum(min(1.0, max(0.0, end - place)) for place, share in enumerate(self.shares) if share == 1)
        return math.ceil(passed / scale - 1e-9)

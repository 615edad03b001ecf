from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class ExplicitShares(Plan):
    """A share for every part of the schedule, spelled out: what `tune` writes, and any plan that has no name.

    shares: 0 to 1 each, the first for the start. As many as there are steps: one each. At other numbers of steps the
        dense ones keep their places and their part of the schedule. More and larger ones are closer to the large
        model, and slower.
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
        """How many of the first `index` of `steps` are dense."""
        scale = len(self.shares) / steps
        end = index * scale
        passed = sum(min(1.0, max(0.0, end - place)) for place, share in enumerate(self.shares) if share == 1)
        return math.ceil(passed / scale - 1e-9)

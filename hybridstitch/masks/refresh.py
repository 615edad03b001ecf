from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.masks.wrappers import MaskWrapper
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Refresh(MaskWrapper):
    """Another mask, with its scores asked for again every so many steps.

    mask: the mask. Those that only look at dense steps give the same scores in between.
    steps: 0 to 100; 0 keeps the scores until the next dense step, 1 asks at every step: fresher, and regions move.
    """

    type = "every"

    steps: Annotated[int, Range(0, 100)] = 1

    @property
    def refresh(self) -> int:
        return self.steps

    def scores(self, trajectory: Trajectory) -> Tensor:
        return self.mask.scores(trajectory)

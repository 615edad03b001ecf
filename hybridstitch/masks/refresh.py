from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.masks.wrappers import MaskWrapper
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Refresh(MaskWrapper):
    """Another mask, with its scores computed again every few steps.

    Args:
        mask: the mask, default `velocity-change`. One that only reads dense steps returns the same scores in between.
        steps: steps between two computations, 0 to 100, default 1; 0 keeps the scores until the next dense step.
            More saves the cost of scoring; less lets the regions follow the picture.
    """

    type = "every"

    steps: Annotated[int, Range(0, 100)] = 1

    @property
    def refresh(self) -> int:
        return self.steps

    def scores(self, trajectory: Trajectory) -> Tensor:
        return self.mask.scores(trajectory)

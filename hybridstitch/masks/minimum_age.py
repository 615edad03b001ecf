from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.masks.base import ranks
from hybridstitch.masks.wrappers import MaskWrapper
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class MinimumAge(MaskWrapper):
    """Another mask, with recently rendered tokens ranked behind all others.

    Args:
        mask: the mask, default `velocity-change`.
        steps: number of steps for which a token ranks last after the large model rendered it, 1 to 100, default 2.
            More spreads the large model's work over the picture, less concentrates it where the mask ranks highest.
            No effect on speed.
    """

    type = "minimum-age"
    refresh = 1

    steps: Annotated[int, Range(1, 100)] = 2

    def scores(self, trajectory: Trajectory) -> Tensor:
        return ranks(self.mask.scores(trajectory)) + trajectory.age.clamp(max=self.steps + 1)

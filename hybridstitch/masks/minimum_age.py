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
    """Another mask, in which tokens that were rendered a moment ago stand behind all others.

    mask: the mask. steps: how many steps a token rests after the large model rendered it, 1 to 100. More spreads the
        large model's work over the picture, less keeps it where the mask wants it.
    """

    type = "minimum-age"
    refresh = 1

    steps: Annotated[int, Range(1, 100)] = 2

    def scores(self, trajectory: Trajectory) -> Tensor:
        return ranks(self.mask.scores(trajectory)) + trajectory.age.clamp(max=self.steps + 1)

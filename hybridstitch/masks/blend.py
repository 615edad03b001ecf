from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.masks.base import ranks
from hybridstitch.masks.wrappers import MaskPair
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Blend(MaskPair):
    """Two masks combined: the weighted mean of the ranks that they give each token.

    Args:
        first: a mask, default `velocity-change`.
        second: a mask, default `edges`.
        weight: weight of `second`, 0 to 1, default 0.5. More follows `second`, less `first`. No effect on speed.
    """

    type = "blend"

    weight: Annotated[float, Range(0, 1)] = 0.5

    def scores(self, trajectory: Trajectory) -> Tensor:
        first, second = (ranks(each.scores(trajectory)) for each in (self.first, self.second))
        return (1 - self.weight) * first + self.weight * second

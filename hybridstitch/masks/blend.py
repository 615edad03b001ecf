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
    """Two masks weighed against each other, by the places that they give a token.

    first, second: the masks. weight: of the second, 0 to 1; at either end one of them decides alone.
    """

    type = "blend"

    weight: Annotated[float, Range(0, 1)] = 0.5

    def scores(self, trajectory: Trajectory) -> Tensor:
        first, second = (ranks(each.scores(trajectory)) for each in (self.first, self.second))
        return (1 - self.weight) * first + self.weight * second

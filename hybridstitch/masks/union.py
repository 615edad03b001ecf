from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridstitch.masks.base import ranks
from hybridstitch.masks.wrappers import MaskPair
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Union(MaskPair):
    """Tokens that either of two masks ranks high: the higher of the two ranks of each token.

    Args:
        first: a mask, default `velocity-change`.
        second: a mask, default `edges`.
    """

    type = "union"

    def scores(self, trajectory: Trajectory) -> Tensor:
        return torch.maximum(*(ranks(each.scores(trajectory)) for each in (self.first, self.second)))

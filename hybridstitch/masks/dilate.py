from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from hybridstitch.masks.base import ranks
from hybridstitch.masks.wrappers import MaskWrapper
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Dilate(MaskWrapper):
    """Another mask, each token as important as the most important one near it: fewer, rounder regions.

    mask: the mask. radius: in tokens, 1 to 16; the more, the fewer and the rounder.
    """

    type = "dilate"

    radius: Annotated[int, Range(1, 16)] = 1

    def scores(self, trajectory: Trajectory) -> Tensor:
        own = ranks(self.mask.scores(trajectory))
        window = 2 * self.radius + 1
        near = torch.nn.functional.max_pool2d(own.unflatten(1, trajectory.grid).unsqueeze(1), window, 1, self.radius)
        # Those near the same token stand in the order of their own scores, below any that stand near a better one.
        return near.flatten(1) + own / (2 * trajectory.token_count)

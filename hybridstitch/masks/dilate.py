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
    """Another mask, widened: each token takes the highest rank within a radius.

    Args:
        mask: the mask, default `velocity-change`.
        radius: in tokens, 1 to 16, default 1. More gives fewer and rounder regions, which contain more tokens of low
            rank. No effect on speed.
    """

    type = "dilate"

    radius: Annotated[int, Range(1, 16)] = 1

    def scores(self, trajectory: Trajectory) -> Tensor:
        own = ranks(self.mask.scores(trajectory))
        window = 2 * self.radius + 1
        near = torch.nn.functional.max_pool2d(own.unflatten(1, trajectory.grid).unsqueeze(1), window, 1, self.radius)
        # Tokens near the same maximum keep the order of their ranks. All rank below tokens near a higher maximum.
        return near.flatten(1) + own / (2 * trajectory.token_count)

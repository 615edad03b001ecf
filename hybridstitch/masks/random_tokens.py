from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Random(MaskStrategy):
    """Tokens drawn at random: the control that every other mask has to beat.

    Other tokens whenever the scores are asked for again; within `every`, at every step.

    seed: 0 to 2^53 - 1. The same tokens for every picture, so that a picture does not depend on its batch.
    """

    type = "random"

    seed: Annotated[int, Range(0, 2**53 - 1)] = 0

    def scores(self, trajectory: Trajectory) -> Tensor:
        source = torch.Generator().manual_seed(self.seed + 1_000_003 * trajectory.now.index)
        draw = torch.rand(trajectory.token_count, generator=source)
        return draw.to(trajectory.device).expand(trajectory.batch, -1)

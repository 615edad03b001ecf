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
    """Tokens chosen at random: the control that every other mask has to beat.

    The loop gets other tokens each time it computes the scores; inside mask `every`, at every step.

    Args:
        seed: 0 to 2^53 - 1, default 0. All pictures get the same tokens, so that a picture does not depend on its
            batch. No effect on speed.
    """

    type = "random"

    seed: Annotated[int, Range(0, 2**53 - 1)] = 0

    def scores(self, trajectory: Trajectory) -> Tensor:
        source = torch.Generator().manual_seed(self.seed + 1_000_003 * trajectory.now.index)
        draw = torch.rand(trajectory.token_count, generator=source)
        return draw.to(trajectory.device, non_blocking=True).expand(trajectory.batch, -1)

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class All(MaskStrategy):
    """Every token, whatever the plan's share: the control that shows what masking costs in quality."""

    type = "all"

    def scores(self, trajectory: Trajectory) -> Tensor:
        return torch.zeros(trajectory.batch, trajectory.token_count, device=trajectory.device)

    def count(self, share: float, tokens: int) -> int:
        return tokens

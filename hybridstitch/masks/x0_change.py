from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class X0Change(MaskStrategy):
    """Tokens whose final picture is still being decided: change of the large model's last two x0 estimates of each.

    Free. Unlike `velocity-change` it weighs a change of velocity by the noise level at which it was seen.
    """

    type = "x0-change"
    dense_steps = 2

    def scores(self, trajectory: Trajectory) -> Tensor:
        last, before = trajectory.denoised[:2]
        return (last - before).norm(dim=-1)

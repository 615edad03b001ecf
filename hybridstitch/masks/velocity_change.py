from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class VelocityChange(MaskStrategy):
    """Tokens whose velocity still changes: between the last two times that the large model rendered each.

    Free: both predictions are there anyway. Our reading of the "pixel difference" that HybridStitch
    (arXiv 2603.07815) is said to use; the formula is not public.
    """

    type = "velocity-change"
    dense_steps = 2

    def scores(self, trajectory: Trajectory) -> Tensor:
        last, before = trajectory.velocities[:2]
        return (last - before).float().norm(dim=-1)

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Drift(MaskStrategy):
    """Tokens whose last velocity is most outdated: its rate of change times the noise removed since.

    Each token has its own rate, from the last two times that the large model rendered it. A token that was just
    rendered scores low, and the score of a waiting one grows. The mask suits fills that continue from the last
    velocity. It needs no forward.
    """

    type = "drift"
    dense_steps = 2
    refresh = 1

    def scores(self, trajectory: Trajectory) -> Tensor:
        last, before = trajectory.velocities[:2]
        newer, older = trajectory.sigmas[:2]
        rate = (last - before).float().norm(dim=-1) / (older - newer).clamp(min=1e-6)
        return rate * (newer - trajectory.now.sigma)

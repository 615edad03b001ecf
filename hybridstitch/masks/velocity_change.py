from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class VelocityChange(MaskStrategy):
    """Tokens whose velocity changed most between the last two times that the large model rendered them.

    It needs no forward, as both velocities are cached. HybridStitch (arXiv 2603.07815) uses a "pixel difference" whose
    formula is not public; this is our reading of it.
    """

    type = "velocity-change"
    dense_steps = 2

    def scores(self, trajectory: Trajectory) -> Tensor:
        last, before = trajectory.velocities[:2]
        return (last - before).float().norm(dim=-1)

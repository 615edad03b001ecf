from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Small(Fill):
    """The small model, on the whole latent: it sees the large model's part too, so the picture stays one."""

    type = "small"

    def velocity(self, trajectory: Trajectory) -> Tensor:
        return trajectory.small_velocity()

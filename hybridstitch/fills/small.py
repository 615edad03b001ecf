from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Small(Fill):
    """The small model on the whole latent, so that it also sees the tokens that the large model renders."""

    type = "small"

    def velocity(self, trajectory: Trajectory) -> Tensor:
        return trajectory.small_velocity()

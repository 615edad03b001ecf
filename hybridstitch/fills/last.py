from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Last(Fill):
    """The large model's last velocity for each token, reused. Costs no forward; loses fidelity as the gap grows."""

    type = "last"
    dense_steps = 1

    def velocity(self, trajectory: Trajectory) -> Tensor:
        return trajectory.velocities[0]

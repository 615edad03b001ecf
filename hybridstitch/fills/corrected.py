from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Corrected(Fill):
    """The small model's velocity, plus a share of the last known difference between the two models.

    The difference changes more slowly than either velocity, so each token carries its last one along. This costs the
    small model at every step, and one forward more after each run of dense steps. It pays where dense steps renew the
    difference; without them it loses fidelity (docs/benchmarks.md).

    Args:
        strength: share of the difference that is added, 0 to 1, default 0.5; 0 is fill `small`. More is closer to the
            large model while the difference is recent, and further from it later. No effect on speed.
    """

    type = "corrected"
    dense_steps = 1

    strength: Annotated[float, Range(0, 1)] = 0.5

    def velocity(self, trajectory: Trajectory) -> Tensor:
        return trajectory.small_velocity() + self.strength * trajectory.correction()

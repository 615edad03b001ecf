from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Corrected(Fill):
    """The small model, plus what the large one last knew better about each token.

    The difference of the two models changes more slowly than either of them, so it is carried along. Costs the small
    model at every step, and once more after every run of dense steps.

    strength: share of the difference that is added, 0 to 1. More is closer to the large model as long as the difference
        holds; 0 is `small`.
    """

    type = "corrected"
    dense_steps = 1

    strength: Annotated[float, Range(0, 1)] = 0.5

    def velocity(self, trajectory: Trajectory) -> Tensor:
        return trajectory.small_velocity() + self.strength * trajectory.correction()

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Disagreement(MaskStrategy):
    """Tokens on which the two models differ most, each where the large model rendered it last.

    Measures what matters, and costs one forward of the small model more than `velocity-change`. TRACK routes
    whole steps by this distance; here it routes tokens.
    """

    type = "disagreement"

    def scores(self, trajectory: Trajectory) -> Tensor:
        return trajectory.correction().float().norm(dim=-1)

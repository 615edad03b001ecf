from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Disagreement(MaskStrategy):
    """Tokens on which the two models differ most, each where the large model last rendered it.

    Costs one forward of the small model after dense steps, which fill `corrected` reuses. TRACK (2026) routes whole
    steps by the same distance. On the embedded pair it is a better signal than `velocity-change` (docs/benchmarks.md).
    """

    type = "disagreement"

    def scores(self, trajectory: Trajectory) -> Tensor:
        return trajectory.correction().float().norm(dim=-1)

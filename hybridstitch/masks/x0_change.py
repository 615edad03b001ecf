from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class X0Change(MaskStrategy):
    """Tokens whose x0 estimate changed most between the last two times that the large model rendered them.

    Unlike `velocity-change`, it weights each velocity by its noise level. It needs no forward.
    """

    type = "x0-change"
    dense_steps = 2

    def scores(self, trajectory: Trajectory) -> Tensor:
        last, before = trajectory.denoised[:2]
        return (last - before).norm(dim=-1)

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Spread(MaskStrategy):
    """Tokens with a small spread of their last prediction, and those that have waited long (RAS, arXiv 2502.10389).

    The spread is the standard deviation over the channels, mean over a token's patch; its authors find it small where
    the subject is. They weigh it by how often a token was left out so far; here it is by the steps since it was last
    rendered.

    starvation: how fast a waiting token comes forward, 0 to 5: its score shrinks by `exp(-starvation)` a step. 0 lets
        some wait for ever.
    """

    type = "spread"
    refresh = 1

    starvation: Annotated[float, Range(0, 5)] = 0.1

    def scores(self, trajectory: Trajectory) -> Tensor:
        channels = trajectory.now.latents.shape[1]
        spread = trajectory.velocities[0].float().unflatten(-1, (-1, channels)).std(dim=-1, correction=0).mean(dim=-1)
        return -spread * (-self.starvation * trajectory.age).exp()

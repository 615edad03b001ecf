from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Spread(MaskStrategy):
    """Tokens with a low spread of their last velocity, and those that have waited long (RAS, arXiv 2502.10389).

    The spread is the standard deviation over channels, averaged over a token's patch. The paper finds it low where the
    subject is. It weights the spread by how often a token was left out; here the weight is the number of steps since
    the token was last rendered. The mask needs no forward.

    Args:
        starvation: a waiting token's spread shrinks by `exp(-starvation)` a step, 0 to 5, default 0.1. More spreads the
            large model's work over the picture; 0 can leave tokens out until the next dense step. No effect on speed.
    """

    type = "spread"
    refresh = 1

    starvation: Annotated[float, Range(0, 5)] = 0.1

    def scores(self, trajectory: Trajectory) -> Tensor:
        channels = trajectory.now.latents.shape[1]
        spread = trajectory.velocities[0].float().unflatten(-1, (-1, channels)).std(dim=-1, correction=0).mean(dim=-1)
        return -spread * (-self.starvation * trajectory.age).exp()

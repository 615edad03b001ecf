from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Drift(MaskStrategy):
    """Tokens whose last prediction is probably most wrong by now: their rate of change times their staleness.

    The rate is each token's own, from the last two times that the large model rendered it, so a token that was just
    renewed steps back and one that waits comes forward. Made for fills that go on from the last prediction.
    """

    type = "drift"
    dense_steps = 2
    refresh = 1

    def scores(self, trajectory: Trajectory) -> Tensor:
        last, before = trajectory.velocities[:2]
        newer, older = trajectory.sigmas[:2]
        rate = (last - before).float().norm(dim=-1) / (older - newer).clamp(min=1e-6)
        return rate * (newer - trajectory.now.sigma)

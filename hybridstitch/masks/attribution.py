from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


def movement(with_words: Tensor, without: Tensor) -> Tensor:
    """The distance of two predictions `(batch, tokens, …)` at each token, `(batch, tokens)`."""
    return (with_words - without).float().norm(dim=-1)


@dataclass(frozen=True)
class Attribution(MaskStrategy):
    """Tokens that the prompt moves most: the distance of the small model's velocities with and without the prompt.

    Classifier-free guidance (arXiv 2207.12598) amplifies the same difference. The scores are computed at the last dense
    step and cost one guided and one conditional forward of the small model. Without guidance, which has no velocity
    without the prompt, all scores are equal.
    """

    type = "attribution"

    def scores(self, trajectory: Trajectory) -> Tensor:
        state, _ = trajectory.dense[-1]
        # Guided minus cond is (guidance_scale - 1) times cond minus uncond: the ranking is the same.
        return movement(trajectory.small_velocity(state), trajectory.small_conditional(state))

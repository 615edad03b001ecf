from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


def movement(with_words: Tensor, without: Tensor) -> Tensor:
    """How far words move each token: the distance of two predictions `(batch, tokens, …)`, as `(batch, tokens)`."""
    return (with_words - without).float().norm(dim=-1)


@dataclass(frozen=True)
class Attribution(MaskStrategy):
    """Tokens that the words of the prompt move most, as the small model sees it: where the picture follows the text.

    The distance between its predictions with and without the prompt (arXiv 2207.12598 guides by the same difference),
    at the last dense step. Costs one forward and a half of the small model; an explanation by words measures the same
    distance word by word. Without guidance there is no prediction without the prompt: the scores are all equal then.
    """

    type = "attribution"

    def scores(self, trajectory: Trajectory) -> Tensor:
        point, _ = trajectory.dense[-1]
        # Guided minus conditional is (guidance_scale - 1) times conditional minus negative: the order is the same.
        return movement(trajectory.small_velocity(point), trajectory.small_conditional(point))

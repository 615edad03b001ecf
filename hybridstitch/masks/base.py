"""The second axis: which tokens does the large model render, when it renders only a share of them?"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class MaskStrategy(Strategy, ABC):
    """Scores every image token; the loop gives those with the highest scores to the large model.

    The loop calls `scores` at the first step with a share between 0 and 1 after dense steps of the large model,
    and again after each further dense step, or more often if `refresh` says so. Every step takes its share from the
    top of the scores, ties broken by position, so the number of tokens is known beforehand (compilation, batching).
    """

    @property
    def dense_steps(self) -> int:
        """How many points of `trajectory.dense` the scores need, 1 or 2. Until then the loop takes dense steps."""
        return 1

    @property
    def refresh(self) -> int:
        """After how many steps the scores are worth asking for again; 0: only after the next dense step."""
        return 0

    @abstractmethod
    def scores(self, trajectory: Trajectory) -> Tensor:
        """Scores `(batch, tokens)`, finite, row-major over `trajectory.grid`. Each picture's from itself alone."""

    def count(self, share: float, tokens: int) -> int:
        """How many of `tokens` the large model renders at a share strictly between 0 and 1; at least one."""
        return max(1, round(share * tokens))


def ranks(scores: Tensor) -> Tensor:
    """Places of the scores `(batch, tokens)` in their own picture, from above 0 to 1: masks of any scale compare so.

    Ties go to the first, as in the loop.
    """
    places = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return 1 - places / scores.shape[1]

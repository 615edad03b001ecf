"""The second axis: which tokens does the large model render, when it renders only a share of them?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class MaskStrategy(Strategy, ABC):
    """Scores every image token; the loop gives those with the highest scores to the large model.

    The loop calls `scores` once, at the first step with a share between 0 and 1 after dense steps of the large
    model, and again after each further dense step. Every step then takes its share from the top of the same
    scores, ties broken by position, so the number of tokens is known beforehand (compilation, batching).
    """

    dense_steps: ClassVar[int] = 1
    """How many points of `trajectory.dense` the scores need, 1 or 2. Until then the loop takes dense steps."""

    @abstractmethod
    def scores(self, trajectory: Trajectory) -> Tensor:
        """Scores `(batch, tokens)`, finite, row-major over `trajectory.grid`. Each picture's from itself alone."""

    def count(self, share: float, tokens: int) -> int:
        """How many of `tokens` the large model renders at a share strictly between 0 and 1; at least one."""
        return max(1, round(share * tokens))

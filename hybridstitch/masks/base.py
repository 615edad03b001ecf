"""The base class of masks, and ranks that make the scores of different masks comparable."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class MaskStrategy(Strategy, ABC):
    """Scores every image token; at a hybrid step the large model renders those with the highest scores.

    The loop calls `scores` at the first hybrid step after dense steps, and again after each further dense step, or
    every `refresh` steps. Each hybrid step renders its share from the top of the scores; ties go to the first token.
    So the number of tokens is known beforehand, which batching and compilation need.
    """

    @property
    def dense_steps(self) -> int:
        """The number of dense steps that the scores need, 1 or 2. The loop takes dense steps until then."""
        return 1

    @property
    def refresh(self) -> int:
        """The number of steps after which the loop computes the scores again; 0: only after the next dense step."""
        return 0

    @abstractmethod
    def scores(self, trajectory: Trajectory) -> Tensor:
        """Scores `(batch, tokens)`, finite, row-major over `grid`. Each picture's depend on that picture alone."""

    def count(self, share: float, tokens: int) -> int:
        """The number of tokens that the large model renders at a share strictly between 0 and 1; at least one."""
        return max(1, round(share * tokens))


def ranks(scores: Tensor) -> Tensor:
    """Ranks of the scores `(batch, tokens)` within each picture, evenly spaced above 0 to 1, the highest score at 1.

    Ranks make masks of different scales comparable. Ties go to the first token, as in the loop.
    """
    places = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return 1 - places / scores.shape[1]

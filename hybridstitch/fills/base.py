"""The third axis: what predicts the tokens that the large model does not render?"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class Fill(Strategy, ABC):
    """Predicts the velocity of every token more cheaply than the large model.

    The loop calls `velocity` once at every step that is not dense, then puts the large model's rows, if the step
    has any, in place of the fill's: those at `trajectory.tokens`.
    """

    @property
    def dense_steps(self) -> int:
        """How many dense steps of the large model the fill needs to go on from, 0 or 1."""
        return 0

    @property
    def cached(self) -> bool:
        """Whether it calls the small model with `tokens`, which takes a K/V cache of the small model."""
        return False

    @abstractmethod
    def velocity(self, trajectory: Trajectory) -> Tensor:
        """Velocity of all image tokens now, `(batch, tokens, patch * patch * channels)`."""

"""The base class of fills."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class Fill(Strategy, ABC):
    """Predicts the velocity of every token more cheaply than the large model.

    The loop calls `velocity` once at every step that is not dense. At a hybrid step the large model's rows then replace
    the fill's at `trajectory.tokens`.
    """

    @property
    def dense_steps(self) -> int:
        """The number of dense steps that the fill needs before its first prediction, 0 or 1."""
        return 0

    @property
    def cached(self) -> bool:
        """Whether it calls the small model with `tokens`, which needs a K/V cache of the small model."""
        return False

    def warnings(self, steps: int, guidance_scale: float) -> list[str]:
        """The warnings of a report about a schedule of this many steps and its guidance, in sentences."""
        return []

    @abstractmethod
    def velocity(self, trajectory: Trajectory) -> Tensor:
        """Velocity of every image token at this step, `(batch, tokens, patch * patch * channels)`."""

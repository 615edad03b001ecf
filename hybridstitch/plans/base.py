"""The base class of plans."""

from __future__ import annotations

from abc import ABC, abstractmethod

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class Plan(Strategy, ABC):
    """The share of the image tokens that the large model renders at each step.

    The loop calls `large_share` once, at the start of every step. A plan that depends on the progress of the schedule
    works in fractions of it (`trajectory.now.index / trajectory.steps`), so that it fits any number of steps.
    """

    @property
    def masked(self) -> bool:
        """Whether shares strictly between 0 and 1 may occur. False saves the memory of the K/V cache."""
        return True

    @property
    def adaptive(self) -> bool:
        """Whether the shares depend on the picture. The pictures of a call are then generated one after another."""
        return False

    @abstractmethod
    def large_share(self, trajectory: Trajectory) -> float:
        """The share at this step, from 0 (the fill predicts every token) to 1 (a dense step of the large model)."""

"""The first axis: when does the large model work, and on how much of the picture?"""

from __future__ import annotations

from abc import ABC, abstractmethod

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class Plan(Strategy, ABC):
    """At each step, the share of the image tokens that the large model renders.

    The loop calls `large_share` once at the start of every step. Plans that depend on how far the schedule is work in
    fractions of it (`trajectory.now.index / trajectory.steps`), never in step numbers, so that one plan fits any
    number of steps.
    """

    @property
    def masked(self) -> bool:
        """Whether shares strictly between 0 and 1 may occur. False spares the memory of the K/V cache."""
        return True

    @property
    def adaptive(self) -> bool:
        """Whether the shares depend on the picture. Pictures of one call are then drawn one after another."""
        return False

    @abstractmethod
    def large_share(self, trajectory: Trajectory) -> float:
        """0 (none: the fill renders all) to 1 (all: a dense step of the large model)."""

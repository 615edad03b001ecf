"""The first axis: when does the large model work, and on how much of the picture?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Trajectory


class Plan(Strategy, ABC):
    """At each step, the share of the image tokens that the large model renders.

    The loop calls `large_share` once at the start of every step. Plans that depend on how far the schedule is work in
    fractions of it (`trajectory.now.index / trajectory.steps`), never in step numbers, so that one plan fits any
    number of steps.
    """

    masked: ClassVar[bool] = True
    """Whether shares strictly between 0 and 1 occur. False spares the K/V cache, and the mask may be missing."""

    @abstractmethod
    def large_share(self, trajectory: Trajectory) -> float:
        """0 (none: the fill renders all) to 1 (all: a dense step of the large model)."""

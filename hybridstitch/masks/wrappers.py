"""Base classes of masks that wrap other masks and inherit their requirements."""

from __future__ import annotations

from dataclasses import dataclass

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.masks.edges import Edges
from hybridstitch.masks.velocity_change import VelocityChange


@dataclass(frozen=True)
class MaskWrapper(MaskStrategy):
    """A mask around another one, with the same dense steps, refreshes and number of tokens."""

    mask: MaskStrategy = VelocityChange()

    @property
    def dense_steps(self) -> int:
        return self.mask.dense_steps

    @property
    def refresh(self) -> int:
        return self.mask.refresh

    def count(self, share: float, tokens: int) -> int:
        return self.mask.count(share, tokens)


@dataclass(frozen=True)
class MaskPair(MaskStrategy):
    """A mask made of two others, with the higher of their requirements."""

    first: MaskStrategy = VelocityChange()
    second: MaskStrategy = Edges()

    @property
    def dense_steps(self) -> int:
        return max(self.first.dense_steps, self.second.dense_steps)

    @property
    def refresh(self) -> int:
        return min((each.refresh for each in (self.first, self.second) if each.refresh), default=0)

    def count(self, share: float, tokens: int) -> int:
        return max(each.count(share, tokens) for each in (self.first, self.second))

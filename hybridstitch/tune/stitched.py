"""Recipes that stitch regions and steps of both models, for `tune` to try beside pure fitted steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hybridstitch import masks
from hybridstitch.masks import MaskStrategy
from hybridstitch.tune.positions import Schedule

MASKS: tuple[MaskStrategy, ...] = (masks.Drift(), masks.VelocityChange())
SHARES = (0.3, 0.15)
"""Shares of the tokens that the large model renders at a hybrid step."""


@dataclass(frozen=True)
class Stitching:
    """What happens between the dense steps of a schedule.

    Attributes:
        share: Share of the tokens that the large model renders at the hybrid step of each gap.
        mask: Selects these tokens.
        small: Whether the small model's change is a feature of the fit.
    """

    share: float
    mask: MaskStrategy
    small: bool

    def shares(self, schedule: Schedule, steps: int) -> tuple[float, ...]:
        """Return the shares of a plan `listed`: dense steps, and a hybrid step in the middle of every longer gap."""
        found = [float(step in schedule) for step in range(steps)]
        for start, end in zip(schedule, (*schedule[1:], steps), strict=True):
            if end - start > 2:
                found[(start + end + 1) // 2] = self.share
        return tuple(found)


PURE = Stitching(0.0, masks.All(), False)
"""Fitted steps alone."""


def stitchings() -> Iterator[Stitching]:
    """Yield all of them, those with the small model first."""
    for small, share, mask in product((True, False), SHARES, MASKS):
        yield Stitching(share, mask, small)

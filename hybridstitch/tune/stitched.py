"""Recipes that stitch regions and steps of both models, for `tune` to try beside pure fitted steps.

Each is a schedule of fitted steps of which every second one, from the fourth on, renders only a share of the tokens.
Such steps keep the text rows: with a quarter of the tokens they cost 22 % of a dense one on the embedded pair.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridstitch import masks
from hybridstitch.masks import MaskStrategy
from hybridstitch.tune.positions import Schedule

SHARE = 0.25
"""Share of the tokens that the large model renders at a hybrid step. A half costs more and gains nothing."""
DENSE_START = 3
"""Steps of the schedule that stay dense: early errors grow, and the mask compares two of them."""


@dataclass(frozen=True)
class Stitching:
    """What continues a schedule between its dense steps, beside fitted weights.

    Attributes:
        mask: Selects the tokens of hybrid steps.
        small: Whether the small model's change is a feature of the fit.
    """

    mask: MaskStrategy
    small: bool


PURE = Stitching(masks.All(), small=False)
"""Fitted steps alone."""
STITCHINGS = Stitching(masks.Drift(), small=False), Stitching(masks.Drift(), small=True)
"""What a search tries, the small model last: its forwards cost more than its change is worth."""


def stitched_shares(schedule: Schedule, steps: int) -> tuple[float, ...]:
    """Return the shares of a plan `listed` of which every second step of the schedule is a hybrid one."""
    found = [0.0] * steps
    for place, step in enumerate(schedule):
        hybrid = place >= DENSE_START and (place - DENSE_START) % 2 == 0
        found[step] = SHARE if hybrid else 1.0
    return tuple(found)

"""The speed dial of a pair that `hybridstitch tune` has not been run on: schedules that need no calibration."""

from __future__ import annotations

from hybridstitch import fills, masks, plans
from hybridstitch.fills import Fill
from hybridstitch.recipe.names import UNTUNED
from hybridstitch.recipe.recipe import Recipe

NOT_TUNED = (
    "speed: this pair was not tuned, so the schedule is one that needs no calibration; `hybridstitch tune` finds "
    "closer ones, by 1 to 3 dB on the embedded pair; docs/own-pair.md has what it costs"
)
FASTEST = 4.0
"""The highest speed that was measured (docs/benchmarks.md)."""
LIMITS = {3.5: (2.6, FASTEST), 4.5: (2.2, FASTEST), 7.0: (1.0, 3.5)}
"""For the guidance scales that were measured, the highest speeds at which extrapolation between the dense steps is
best, and at which reuse still beats fewer, even steps."""
ROUNDING = 0.49 / 28
"""Taken off a share of the steps, as a recipe rounds it to the nearest number of steps and a speed is a promise."""


def untuned_recipe(speed: float, guidance_scale: float) -> Recipe:
    """The recipe that needs at most 1 / speed of the large model's FLOPs, where the steps suffice.

    The dense steps are those of plan `front`. Between them the velocity is extrapolated where gaps are short, and
    reused where they are long or guidance is strong. At the highest speeds and guidance the large model takes fewer,
    even steps instead.

    Args:
        speed: above 1, at most `FASTEST`.
        guidance_scale: of the request; the nearest one of those measured counts.
    """
    extrapolated, reused = LIMITS[min(LIMITS, key=lambda measured: abs(measured - guidance_scale))]
    if speed > reused:
        return Recipe(plans.AllSteps(), masks.All(), name=UNTUNED, step_share=1 / speed - ROUNDING)
    fill: Fill = fills.Extrapolate() if speed <= extrapolated else fills.Last()
    return Recipe(plans.Front(dense=1 / speed), masks.All(), fill, name=UNTUNED)

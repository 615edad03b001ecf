"""Two families of contenders at the same speed: fidelity is interpolated between the settings of each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hybridstitch.base.markdown import markdown_table
from hybridstitch.bench.folder import Result
from hybridstitch.bench.specs import members
from hybridstitch.bench.table import by_prompt
from hybridstitch.measure.intervals import Interval, by_group

MEASURED, BY_FLOPS = "measured", "by FLOPs"


@dataclass(frozen=True)
class Comparison:
    """Fidelity of one family minus that of another at one speed-up over the large model.

    Attributes:
        speed: The speed-up.
        by: `MEASURED` or `BY_FLOPS`.
        ours, theirs: The one or two settings of each family that the speed lies between; empty if the family has none
            at least as slow, or none at least as fast.
        psnr_db: Difference, paired by prompt and seed, with a 95 % interval by prompt; None if a family is empty. The
            interval takes the speeds of the settings as known.
        perceptual: The same for the perceptual distance; None also where it was not measured.
    """

    speed: float
    by: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    psnr_db: Interval | None
    perceptual: Interval | None


@dataclass(frozen=True)
class _Setting:
    name: str
    speed: float
    results: list[Result]

    @property
    def psnr_db(self) -> float:
        return float(np.nanmean(by_prompt(self.results, "whole", "psnr_db")))


def compare(results: Sequence[Result], ours: str, theirs: str, speeds: Sequence[float], by: str) -> list[Comparison]:
    """Compare two families at each speed.

    Args:
        results: Those of a bench, with every prompt and seed for each contender.
        ours, theirs: The families, see `members`.
        speeds: Speed-ups over the large model.
        by: `MEASURED`, the median of the time of the reference over that of the setting; or `BY_FLOPS`.
    """
    families = [_front(results, family, by) for family in (ours, theirs)]
    return [_at(speed, by, *(_around(family, speed) for family in families)) for speed in speeds]


def _front(results: Sequence[Result], family: str, by: str) -> list[_Setting]:
    """Return the settings that no other setting of the family beats in speed and PSNR, the slowest first."""
    found = []
    for name in members(list(dict.fromkeys(each.contender for each in results)), family):
        own = [each for each in results if each.contender == name]
        if by == MEASURED:
            speed = statistics.median(each.reference_ms / each.ms for each in own)
        else:
            speed = 1 / statistics.fmean(each.cost for each in own)
        found.append(_Setting(name, speed, own))
    best: list[_Setting] = []
    for each in sorted(found, key=lambda each: (-each.speed, -each.psnr_db)):
        if not best or each.psnr_db > best[0].psnr_db:
            best.insert(0, each)
    return best


def _around(family: list[_Setting], speed: float) -> list[tuple[float, _Setting]]:
    """Return the settings on both sides of a speed with their weights, which add up to 1; none outside of them."""
    for each in family:
        if math.isclose(each.speed, speed):
            return [(1.0, each)]
    for slow, fast in pairwise(family):
        if slow.speed < speed < fast.speed:
            weight = math.log(speed / slow.speed) / math.log(fast.speed / slow.speed)
            return [(1 - weight, slow), (weight, fast)]
    return []


def _at(speed: float, by: str, ours: list[tuple[float, _Setting]], theirs: list[tuple[float, _Setting]]) -> Comparison:
    def difference(measure: str) -> Interval | None:
        if not ours or not theirs:
            return None
        sides = [
            sum(weight * by_prompt(each.results, "whole", measure) for weight, each in side) for side in (ours, theirs)
        ]
        found = by_group(np.asarray(sides[0] - sides[1]))
        return None if math.isnan(found.value) else found

    names = [tuple(each.name for _, each in side) for side in (ours, theirs)]
    return Comparison(speed, by, names[0], names[1], difference("psnr_db"), difference("perceptual"))


def comparison_table(found: Sequence[Comparison]) -> str:
    """Return the comparisons as Markdown."""
    heads = ["speed-up", "ours, between", "theirs, between", "difference, dB (95 %)", "difference, perceptual (95 %)"]
    outside = "no settings around this speed"
    lines = [
        [
            f"{each.speed:g}x {each.by}",
            " and ".join(each.ours) or outside,
            " and ".join(each.theirs) or outside,
            f"{each.psnr_db:.2f}" if each.psnr_db else "",
            f"{each.perceptual:.4f}" if each.perceptual else "",
        ]
        for each in found
    ]
    return markdown_table(heads, lines)

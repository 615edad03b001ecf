"""A region of the picture that the large model renders at every step, whatever the recipe does elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridstitch.errors import Problem
from hybridstitch.masks.base import ranks
from hybridstitch.masks.wrappers import MaskWrapper
from hybridstitch.plans.base import Plan
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.trajectory import Trajectory

Region = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are exclusive."""

ANY = 1e-9
"""A share above 0 that adds no token to those of the region."""


def region_problems(region: Region, width: int, height: int) -> list[Problem]:
    """What is wrong with a region of a picture of this size in pixels."""
    left, top, right, bottom = region
    if 0 <= left < right <= width and 0 <= top < bottom <= height:
        return []
    rule = f"[x0, y0, x1, y1] with 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
    return [Problem("region", rule, list(region))]


def with_region(recipe: Recipe, region: Region, cell: int) -> Recipe:
    """The recipe with every token that `region` touches rendered by the large model at every step.

    The recipe's own shares then count the tokens outside the region.

    Args:
        recipe: the recipe to change.
        region: in pixels.
        cell: width and height of a token in pixels.
    """
    return replace(
        recipe, plan=RegionPlan(recipe.plan, region, cell), mask=RegionMask(mask=recipe.mask, region=region, cell=cell)
    )


@dataclass(frozen=True)
class RegionPlan(Plan):
    """Another plan, with a share that is always above 0, so that the region is always rendered."""

    type = "region"

    plan: Plan
    region: Region
    cell: int

    @property
    def adaptive(self) -> bool:
        return self.plan.adaptive

    def large_share(self, trajectory: Trajectory) -> float:
        return max(self.plan.large_share(trajectory), ANY)

    def problems(self, field: str) -> list[Problem]:
        return self.plan.problems(field)


@dataclass(frozen=True, kw_only=True)
class RegionMask(MaskWrapper):
    """The tokens of the region, then the highest ones of another mask."""

    type = "region"

    region: Region
    cell: int

    def scores(self, trajectory: Trajectory) -> Tensor:
        left, top, right, bottom = self._tokens
        inside = torch.zeros(trajectory.grid, device=trajectory.device)
        inside[top:bottom, left:right] = 1
        return ranks(self.mask.scores(trajectory)) + inside.flatten()

    def count(self, share: float, tokens: int) -> int:
        left, top, right, bottom = self._tokens
        always = (right - left) * (bottom - top)
        wanted = self.mask.count(share, tokens - always) if share > ANY and always < tokens else 0
        return always + wanted

    def problems(self, field: str) -> list[Problem]:
        return self.mask.problems(field)

    @property
    def _tokens(self) -> Region:
        """The region in tokens: every token that it touches, right and bottom exclusive."""
        left, top, right, bottom = self.region
        return left // self.cell, top // self.cell, -(-right // self.cell), -(-bottom // self.cell)

"""Recipes that `hybridstitch tune` found on a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybridstitch.recipe.recipe import Recipe


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe that `hybridstitch tune` selected on a pair.

    Attributes:
        recipe: the recipe.
        costs: for each tuned guidance scale, FLOPs of the transformers relative to the large model alone. A plan that
            depends on the picture costs differently at each scale.
        psnr_db: for the same scales, mean PSNR in dB to the large model's pictures of the calibration prompts.
        origin: the recipe or method that it derives from.
    """

    recipe: Recipe
    costs: Mapping[float, float]
    psnr_db: Mapping[float, float]
    origin: str

    def cost(self, guidance_scale: float) -> float:
        """The cost at the tuned guidance scale nearest to this one."""
        return self.costs[self._nearest(guidance_scale)]

    def fidelity(self, guidance_scale: float) -> float:
        """The PSNR in dB at the tuned guidance scale nearest to this one."""
        return self.psnr_db[self._nearest(guidance_scale)]

    def _nearest(self, guidance_scale: float) -> float:
        return min(self.costs, key=lambda tried: abs(tried - guidance_scale))

"""Recipes that `hybridstitch tune` found on a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybridstitch.recipe.recipe import Recipe


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe that `hybridstitch tune` found worth its cost on a pair.

    costs: for every guidance scale that it was tried at, FLOPs of the transformers, where the large model's are 1;
        plans that look at the picture differ there.
    psnr_db: for the same scales, mean fidelity to the large model's own pictures on the prompts that it was tuned on.
    origin: whose idea it is, the name of a recipe or of a method.
    """

    recipe: Recipe
    costs: Mapping[float, float]
    psnr_db: Mapping[float, float]
    origin: str

    def cost(self, guidance_scale: float) -> float:
        """At the guidance scale nearest to this one that was tried."""
        return self.costs[self._nearest(guidance_scale)]

    def fidelity(self, guidance_scale: float) -> float:
        """What it reached there, in dB."""
        return self.psnr_db[self._nearest(guidance_scale)]

    def _nearest(self, guidance_scale: float) -> float:
        return min(self.costs, key=lambda tried: abs(tried - guidance_scale))

"""Calibration pictures, by any recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hybridstitch.measure.pixels import psnr
from hybridstitch.pipeline import HybridStitchPipeline, StepWatcher
from hybridstitch.recipe.recipe import Recipe, recipes

SEEDS = 2**40
"""The first seed. An evaluation uses other seeds, so no recipe is judged on the noise that selected it."""
Size = tuple[int | None, int | None]


@dataclass(frozen=True)
class Case:
    """A recipe to try at a guidance scale on one of the prompts. The number of the prompt selects the noise."""

    recipe: Recipe
    guidance_scale: float
    prompt: int


class Calibration:
    """Generates cases on one pair.

    Attributes:
        pipe: The pair.
        prompts: The calibration prompts.
        steps: Steps of the schedule.
        size: Width and height in pixels; None for the default of the pair.
    """

    def __init__(self, pipe: HybridStitchPipeline, prompts: list[str], steps: int, size: Size = (None, None)):
        self.pipe, self.prompts, self.steps, self.size = pipe, prompts, steps, size
        self._base = pipe.validate(prompts, num_inference_steps=steps, width=size[0], height=size[1])
        self._references: dict[tuple[float, int], np.ndarray] = {}

    def measure(self, case: Case) -> list[float]:
        """Return the cost of a case, 1 for the large model, and its PSNR in dB to the large model's picture.

        Latents that are not finite have an infinite cost.
        """
        key = (case.guidance_scale, case.prompt)
        if key not in self._references:
            self._references[key] = self.generate(Case(recipes()["large"], *key))[0]
        try:
            picture, cost = self.generate(case)
        except FloatingPointError:
            return [float("inf"), 0.0]
        return [cost, psnr(picture, self._references[key])]

    def generate(self, case: Case, on_step: StepWatcher | None = None) -> tuple[np.ndarray, float]:
        """Return the picture of a case, 0 to 1, and its cost. on_step: Called after every step."""
        generation = replace(
            self._base.for_images(case.prompt, case.prompt + 1),
            seeds=SEEDS + case.prompt,
            recipe=case.recipe,
            guidance_scale=case.guidance_scale,
        )
        out = self.pipe.generate(generation, on_step=on_step, output_type="np")
        return (out.images[0] * 255).round() / 255, out.report.flops_share

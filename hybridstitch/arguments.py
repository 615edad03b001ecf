"""The pipeline's own arguments, those that diffusers does not check, all checked at once."""

from __future__ import annotations

import math
from typing import Any

from hybridstitch.catalogue import Catalogue
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.pair import SizeLimits
from hybridstitch.recipe import Recipe
from hybridstitch.region import Region, region_problems

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def checked(
    catalogue: Catalogue,
    limits: SizeLimits,
    *,
    recipe: Any,
    speed: Any,
    sigmas: list[float] | None,
    region: Region | None,
    width: Any,
    height: Any,
    num_inference_steps: Any,
    guidance_scale: Any,
    output_type: Any,
) -> Recipe:
    """The recipe to run. Raises InvalidInput that names every wrong argument."""
    problems = limits.problems(width, height)
    if region is not None and not problems:
        problems += region_problems(region, width, height)
    if type(num_inference_steps) is not int or num_inference_steps < 1:
        problems.append(Problem("num_inference_steps", "an integer of at least 1", num_inference_steps))
    if type(guidance_scale) not in (int, float) or not 0 <= guidance_scale < math.inf:
        problems.append(Problem("guidance_scale", "a number of at least 0", guidance_scale))
    if output_type not in OUTPUT_TYPES:
        problems.append(Problem("output_type", "one of: " + ", ".join(OUTPUT_TYPES), output_type))
    if speed is not None and recipe is not None:
        problems.append(Problem("speed", "no recipe beside it", speed))
    if speed is not None:
        problems.extend(catalogue.speed_problems(speed))
        raise_if(problems)
        resolved = catalogue.at_speed(speed, guidance_scale).recipe
    else:
        try:
            # A schedule of the caller's own asks for a recipe that takes all its steps.
            default = catalogue.default if sigmas is None else "hybridstitch"
            resolved = catalogue.resolve(default if recipe is None else recipe)
        except InvalidInput as error:
            problems.extend(error.problems)
        raise_if(problems)
    if sigmas is not None and resolved.step_share < 1:
        raise InvalidInput([Problem("sigmas", "nothing beside a recipe that takes fewer steps", len(sigmas))])
    return resolved

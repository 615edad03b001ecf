"""The arguments that make a generation: recipe or speed, schedule, size, region and guidance, all checked at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridstitch.base.schema import plain
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.pair import SizeLimits
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import region_problems

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MOST_SIGMAS = 1000


def validate(catalogue: Catalogue, limits: SizeLimits, **arguments: Any) -> Recipe:
    """The recipe to run; arguments as in `resolved`. Raises InvalidInput that names every wrong one."""
    recipe, _, problems = resolved(catalogue, limits, **arguments)
    raise_problems(problems)
    assert recipe is not None
    return recipe


def resolved(
    catalogue: Catalogue,
    limits: SizeLimits,
    *,
    recipe: Any,
    speed: Any,
    sigmas: Any,
    region: Any,
    width: Any,
    height: Any,
    num_inference_steps: Any,
    guidance_scale: Any,
    output_type: Any,
) -> tuple[Recipe | None, list[float] | None, list[Problem]]:
    """The recipe to run, the noise levels as a list, and what is wrong. Numbers of numpy's are fine.

    Without a problem there is a recipe.
    """
    width, height, speed = plain(width), plain(height), plain(speed)
    num_inference_steps, guidance_scale = plain(num_inference_steps), plain(guidance_scale)
    problems = limits.problems(width, height)
    if region is not None:
        largest = (limits.maximum, limits.maximum)
        problems += _region_problems(region, largest if problems else (width, height))
    if type(num_inference_steps) is not int or num_inference_steps < 1:
        problems.append(Problem("num_inference_steps", "an integer of at least 1", num_inference_steps))
    guidance_is_fine = type(guidance_scale) in (int, float) and 0 <= guidance_scale < math.inf
    if not guidance_is_fine:
        problems.append(Problem("guidance_scale", "a number of at least 0", guidance_scale))
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        problems.append(Problem("output_type", "one of: " + ", ".join(OUTPUT_TYPES), output_type))
    levels = None if sigmas is None else _falling(sigmas, problems)
    if speed is not None and recipe is not None:
        problems.append(Problem("speed", "no recipe beside it", speed))
    chosen = None
    if speed is not None:
        wrong = catalogue.speed_problems(speed)
        problems += wrong
        if not wrong and guidance_is_fine:
            chosen = catalogue.at_speed(speed, guidance_scale).recipe
    if speed is None or recipe is not None:
        try:
            # A schedule of the caller's own asks for a recipe that takes all its steps.
            default = catalogue.default if sigmas is None else "hybridstitch"
            named = catalogue.resolve(default if recipe is None else recipe)
            chosen = named if speed is None else chosen
        except InvalidInput as error:
            problems.extend(error.problems)
    if sigmas is not None and chosen is not None and chosen.step_share < 1:
        problems.append(Problem("sigmas", "nothing beside a recipe that takes fewer steps", "a schedule"))
    return chosen, levels, problems


def _region_problems(region: Any, size: tuple[int, int]) -> list[Problem]:
    sides = [plain(side) for side in region] if isinstance(region, list | tuple | np.ndarray) else []
    if len(sides) != 4 or not all(type(side) is int for side in sides):
        return [Problem("region", "four whole numbers of pixels: left, top, right, bottom", region)]
    left, top, right, bottom = sides
    return region_problems((left, top, right, bottom), *size)


def _falling(sigmas: Any, problems: list[Problem]) -> list[float] | None:
    """Noise levels as a list of floats; adds to `problems`."""
    given = sigmas.tolist() if isinstance(sigmas, np.ndarray | Tensor) else sigmas
    listed = [plain(each) for each in given] if isinstance(given, Sequence) and not isinstance(given, str) else []
    fine = 0 < len(listed) <= MOST_SIGMAS and all(type(each) in (int, float) for each in listed)
    if fine and all(before > after for before, after in zip([1 + 1e-6, *listed], [*listed, 0.0], strict=True)):
        return [float(each) for each in listed]
    expected = f"1 to {MOST_SIGMAS} falling numbers of at most 1 and above 0, as a list, array or tensor"
    problems.append(Problem("sigmas", expected, sigmas))
    return None


def dtype_of(*values: Any) -> torch.dtype:
    """The one type of weights that these arguments, alternatives of each other, name; float32 if none does."""
    known = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
    found: dict[str, torch.dtype] = {}
    for field, value in zip(("dtype", "torch_dtype"), values, strict=True):
        if value is not None:
            name = str(value).removeprefix("torch.")
            if name not in known or not isinstance(value, str | torch.dtype):
                raise InvalidInput([Problem(field, "a torch.dtype or its name, one of: " + ", ".join(known), value)])
            found[field] = known[name]
    if len(set(found.values())) > 1:
        raise InvalidInput([Problem("torch_dtype", f"nothing beside dtype={found['dtype']}", found["torch_dtype"])])
    return next(iter(found.values()), torch.float32)

"""Validation of one call of the pipeline: its arguments become a `Generation`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from hybridstitch.base.schema import plain
from hybridstitch.call.attached import lora_scale_of, skip_layers_of
from hybridstitch.call.prompts import clip_skip_problems, described, prompts_of, text_length
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.generation import Generation
from hybridstitch.model.lora_files import acting_scales
from hybridstitch.model.mmdit import subset_problems
from hybridstitch.model.parts import Parts
from hybridstitch.model.prompts import EMBEDS
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import Region, region_problems

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MOST_SIGMAS = 1000
TENSOR_INPUTS = ("latents", *EMBEDS)
"""Tensors that a callback after a step may receive and replace."""
_WITHOUT = {
    "ip_adapter_image": "IP-Adapter",
    "ip_adapter_image_embeds": "IP-Adapter",
    "mu": "dynamic shifting",
}


@dataclass(frozen=True)
class Call:
    """A validated call of the pipeline.

    Attributes:
        generation: What the call generates.
        tensor_inputs: Names of the tensors that `callback_on_step_end` receives.
    """

    generation: Generation
    tensor_inputs: tuple[str, ...]


def validate_call(pair: Parts, catalogue: Catalogue, given: Mapping[str, Any]) -> Call:
    """Validate the arguments of a call against each other, before any work begins.

    Args:
        pair: The models that the call is for.
        catalogue: The recipes and strategies that it may name.
        given: Every argument of `HybridStitchPipeline.__call__` by name. Numbers may be numpy scalars.

    Raises:
        InvalidInput: Names every wrong argument, and whatever is attached to the models that the call would bypass.
    """
    given = {name: plain(value) for name, value in given.items()}
    width, height = pair.size_limits.default
    given |= {"width": width} if given["width"] is None else {}
    given |= {"height": height} if given["height"] is None else {}
    if isinstance(given["callback_on_step_end"], PipelineCallback | MultiPipelineCallbacks):
        given["callback_on_step_end_tensor_inputs"] = given["callback_on_step_end"].tensor_inputs
    problems = pair.size_limits.problems(given["width"], given["height"])
    size = None if problems else (given["width"], given["height"])
    problems += _region_problems(given["region"], size or 2 * (pair.size_limits.maximum,)) + _number_problems(given)
    sigmas = None if given["sigmas"] is None else _falling(given["sigmas"], problems)
    recipe = _chosen(catalogue, given, problems)
    skip_layers, lora_scale = skip_layers_of(pair, given, problems), lora_scale_of(given, problems)
    problems += _refused(given) + pair_problems(pair, recipe, given["region"], sigmas) + _callable_problems(given)
    problems += [] if given["lora"] is None else pair.adapters.problems(given["lora"])
    images = 1 if given["num_images_per_prompt"] is None else given["num_images_per_prompt"]
    wrong_images = images_problems(images)
    problems += wrong_images
    length = text_length(pair, given["max_sequence_length"], problems)
    problems += clip_skip_problems(pair, given["clip_skip"])
    scale = given["guidance_scale"]
    guided = isinstance(scale, int | float) and scale > 1
    prompts = prompts_of(pair, given, length, guided, problems)
    pictures = prompts.count * images if prompts.count and not wrong_images else None
    problems += _latents_problems(pair, given["latents"], pictures, size)
    problems += _generator_problems(given["generator"], pictures, pair.device)
    raise_problems(problems)
    generation = Generation(
        prompts=prompts,
        seeds=_seeds(given["generator"]),
        width=given["width"],
        height=given["height"],
        num_inference_steps=given["num_inference_steps"] if sigmas is None else len(sigmas),
        guidance_scale=scale,
        recipe=recipe,
        speed=given["speed"],
        region=None if given["region"] is None else tuple(map(plain, given["region"])),
        sigmas=sigmas,
        images_per_prompt=images,
        clip_skip=given["clip_skip"],
        text_length=length,
        lora=pair.adapters.usual if given["lora"] is None else acting_scales(given["lora"]),
        skip_layers=skip_layers,
        lora_scale=lora_scale,
    )
    return Call(generation, tuple(given["callback_on_step_end_tensor_inputs"]))


def pair_problems(
    pair: Parts, recipe: Recipe | None, region: Region | None, sigmas: tuple[float, ...] | None
) -> list[Problem]:
    """Return what keeps the models and the scheduler, as they are now, from running a generation.

    Args:
        pair: The models and the scheduler.
        recipe: The recipe to run; None if it is unknown.
        region: The region of the generation.
        sigmas: Its noise levels.
    """
    found = _scheduler_problems(pair.scheduler, sigmas)
    if recipe is not None:
        if recipe.plan.masked or region is not None:
            found += subset_problems(pair.large, "large")
        if recipe.fill.cached:
            found += subset_problems(pair.small, "small")
    return found


def _number_problems(given: Mapping[str, Any]) -> list[Problem]:
    found = []
    steps, scale, output_type = given["num_inference_steps"], given["guidance_scale"], given["output_type"]
    if type(steps) is not int or steps < 1:
        found.append(Problem("num_inference_steps", "an integer of at least 1", steps))
    if not _is_scale(scale):
        found.append(Problem("guidance_scale", "a number of at least 0", scale))
    if not isinstance(output_type, str) or output_type not in OUTPUT_TYPES:
        found.append(Problem("output_type", "one of: " + ", ".join(OUTPUT_TYPES), output_type))
    return found


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _chosen(catalogue: Catalogue, given: Mapping[str, Any], problems: list[Problem]) -> Recipe | None:
    """Return the recipe that a call names or that its speed selects; adds to `problems`."""
    asked, speed, sigmas, chosen = given["recipe"], given["speed"], given["sigmas"], None
    if speed is not None and asked is not None:
        problems.append(Problem("speed", "no recipe beside it", speed))
    wrong = [] if speed is None else catalogue.speed_problems(speed)
    problems += wrong
    if asked is not None:
        try:
            chosen = catalogue.resolve(asked)
        except InvalidInput as error:
            problems += error.problems
    elif not wrong and _is_scale(scale := given["guidance_scale"]):
        by_default = speed is None
        chosen = catalogue.default(scale, sigmas is not None) if by_default else catalogue.at_speed(speed, scale).recipe
    if sigmas is not None and chosen is not None and chosen.step_share < 1:
        problems.append(Problem("sigmas", "nothing beside a recipe that takes fewer steps", "a schedule"))
    return chosen


def _region_problems(region: Any, size: tuple[int, ...]) -> list[Problem]:
    """size: width and height in pixels."""
    if region is None:
        return []
    sides = [plain(side) for side in region] if isinstance(region, list | tuple | np.ndarray) else []
    if len(sides) != 4 or not all(type(side) is int for side in sides):
        return [Problem("region", "four whole numbers of pixels: left, top, right, bottom", region)]
    left, top, right, bottom = sides
    return region_problems((left, top, right, bottom), *size)


def _falling(sigmas: Any, problems: list[Problem]) -> tuple[float, ...] | None:
    """Return noise levels as floats; adds to `problems`."""
    given = sigmas.tolist() if isinstance(sigmas, np.ndarray | Tensor) else sigmas
    listed = [plain(each) for each in given] if isinstance(given, Sequence) and not isinstance(given, str) else []
    fine = 0 < len(listed) <= MOST_SIGMAS and all(type(each) in (int, float) for each in listed)
    if fine and all(before > after for before, after in zip([1 + 1e-6, *listed], [*listed, 0.0], strict=True)):
        return tuple(float(each) for each in listed)
    expected = f"1 to {MOST_SIGMAS} falling numbers of at most 1 and above 0, as a list, array or tensor"
    problems.append(Problem("sigmas", expected, sigmas))
    return None


def _seeds(generator: torch.Generator | list[torch.Generator] | None) -> int | tuple[int, ...] | None:
    """Return the seeds that make the same pictures again; None if they come from torch's global state."""
    if isinstance(generator, list):
        return tuple(each.initial_seed() for each in generator)
    return None if generator is None else generator.initial_seed()


def images_problems(value: Any) -> list[Problem]:
    """Return what is wrong with `num_images_per_prompt`."""
    fine = type(value) is int and value >= 1
    return [] if fine else [Problem("num_images_per_prompt", "an integer of at least 1", value)]


def _refused(given: Mapping[str, Any]) -> list[Problem]:
    """Return arguments of diffusers' pipeline that would have no effect here."""
    return [
        Problem(name, f"None: this pipeline has no {what}", described(given[name]))
        for name, what in _WITHOUT.items()
        if given[name] is not None
    ]


def _scheduler_problems(scheduler: Any, sigmas: tuple[float, ...] | None) -> list[Problem]:
    found = []
    if scheduler.config.get("use_dynamic_shifting"):
        expected = "a scheduler with one shift for all sizes (use_dynamic_shifting false)"
        found.append(Problem("scheduler", expected, type(scheduler).__name__))
    if not hasattr(scheduler, "sigmas"):
        expected = "a scheduler of flow matching, which has noise levels `sigmas`"
        found.append(Problem("scheduler", expected, type(scheduler).__name__))
    elif sigmas is not None and "sigmas" not in inspect.signature(scheduler.set_timesteps).parameters:
        found.append(Problem("sigmas", f"nothing: {type(scheduler).__name__} makes its own schedule", len(sigmas)))
    return found


def _callable_problems(given: Mapping[str, Any]) -> list[Problem]:
    found = [
        Problem(name, "a function or None", given[name])
        for name in ("callback_on_step_end", "on_step")
        if given[name] is not None and not callable(given[name])
    ]
    names = given["callback_on_step_end_tensor_inputs"]
    known = isinstance(names, list | tuple) and all(isinstance(name, str) and name in TENSOR_INPUTS for name in names)
    if not known:
        expected = "a list of: " + ", ".join(TENSOR_INPUTS)
        found.append(Problem("callback_on_step_end_tensor_inputs", expected, names))
    if not isinstance(given["return_dict"], bool):
        found.append(Problem("return_dict", "True or False", given["return_dict"]))
    return found


def _latents_problems(pair: Parts, latents: Any, pictures: int | None, size: tuple[int, int] | None) -> list[Problem]:
    """size: width and height in pixels; None if they are wrong."""
    if latents is None:
        return []
    factor, channels = pair.vae_scale_factor, pair.large.config.in_channels
    sides = (None, None) if size is None else (size[1] // factor, size[0] // factor)
    shape = (pictures, channels, *sides)
    names = ("pictures", channels, "height", "width")
    axes = ", ".join(str(name if side is None else side) for side, name in zip(shape, names, strict=True))
    expected = f"a floating point tensor ({axes})"
    if not isinstance(latents, Tensor) or not latents.is_floating_point() or latents.dim() != len(shape):
        return [Problem("latents", expected, described(latents))]
    if any(side not in (None, has) for side, has in zip(shape, latents.shape, strict=True)):
        return [Problem("latents", expected, described(latents))]
    return [] if torch.isfinite(latents).all() else [Problem("latents", "finite numbers", "NaN or infinity")]


def _generator_problems(generator: Any, pictures: int | None, device: torch.device) -> list[Problem]:
    if generator is None:
        return []
    listed = generator if isinstance(generator, list) else [generator]
    if not all(isinstance(each, torch.Generator) for each in listed):
        return [Problem("generator", "a torch.Generator, or a list of one for each picture", generator)]
    if isinstance(generator, list) and pictures is not None and len(generator) != pictures:
        return [Problem("generator", f"one torch.Generator, or {pictures}: one for each picture", len(generator))]
    wrong = [each.device for each in listed if each.device.type not in ("cpu", device.type)]
    return [Problem("generator", f"one on cpu or {device}", str(wrong[0]))] if wrong else []


def dtype_of(*values: Any) -> torch.dtype | None:
    """Return the dtype of weights that `dtype` and its alias `torch_dtype` name; None, or "auto", leaves the choice.

    Raises:
        InvalidInput: One of them is no dtype, or they differ.
    """
    known = {name: getattr(torch, name, None) for name in ("auto", "float32", "float16", "bfloat16")}
    found: dict[str, torch.dtype | None] = {}
    for field, value in zip(("dtype", "torch_dtype"), values, strict=True):
        if value is not None:
            name = str(value).removeprefix("torch.")
            if name not in known or not isinstance(value, str | torch.dtype):
                raise InvalidInput([Problem(field, "a torch.dtype or its name, one of: " + ", ".join(known), value)])
            found[field] = known[name]
    if len(set(found.values())) > 1:
        raise InvalidInput([Problem("torch_dtype", f"nothing beside dtype={found['dtype']}", found["torch_dtype"])])
    return next(iter(found.values()), None)

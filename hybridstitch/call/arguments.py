"""The arguments of one call of the pipeline, each checked against the others before any work begins."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from hybridstitch.base.schema import plain
from hybridstitch.call.prompts import clip_skip_problems, described, prompts_of, text_length
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.generation import resolved
from hybridstitch.model.mmdit import subset_problems
from hybridstitch.model.parts import Parts
from hybridstitch.model.prompts import EMBEDS, Prompts
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import Region

TENSOR_INPUTS = ("latents", *EMBEDS)
"""What a callback after a step may see and replace."""
_WITHOUT = {
    "ip_adapter_image": "IP-Adapter",
    "ip_adapter_image_embeds": "IP-Adapter",
    "skip_guidance_layers": "skip-layer guidance",
    "skip_layer_guidance_scale": "skip-layer guidance",
    "skip_layer_guidance_stop": "skip-layer guidance",
    "skip_layer_guidance_start": "skip-layer guidance",
    "mu": "dynamic shifting",
    "joint_attention_kwargs": "arguments for attention processors",
}
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(StableDiffusion3Pipeline.__call__).parameters.items()
}


@dataclass(frozen=True)
class Call:
    """The arguments of a call, checked and in their plain form.

    pictures: how many pictures come out.
    tensor_inputs: what the callback sees.
    """

    recipe: Recipe
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    sigmas: list[float] | None
    speed: float | None
    region: Region | None
    prompts: Prompts
    num_images_per_prompt: int
    pictures: int
    clip_skip: int | None
    max_sequence_length: int
    tensor_inputs: tuple[str, ...]

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1

    @property
    def steps(self) -> int:
        """The steps asked for."""
        return self.num_inference_steps if self.sigmas is None else len(self.sigmas)


def validate_call(pair: Parts, catalogue: Catalogue, given: Mapping[str, Any]) -> Call:
    """Check all arguments of a call, under their names.

    Raises:
        InvalidInput: names every wrong argument, and whatever is attached to the models that the call would bypass.
    """
    given = {name: plain(value) for name, value in given.items()}
    width, height = pair.size_limits.default
    given |= {"width": width} if given["width"] is None else {}
    given |= {"height": height} if given["height"] is None else {}
    if isinstance(given["callback_on_step_end"], PipelineCallback | MultiPipelineCallbacks):
        given["callback_on_step_end_tensor_inputs"] = given["callback_on_step_end"].tensor_inputs
    generation = {
        name: given[name]
        for name in (
            *("recipe", "speed", "sigmas", "region", "width", "height"),
            *("num_inference_steps", "guidance_scale", "output_type"),
        )
    }
    recipe, sigmas, problems = resolved(catalogue, pair.size_limits, **generation)
    problems += _refused(given) + _scheduler_problems(pair.scheduler, sigmas) + _callable_problems(given)
    images = 1 if given["num_images_per_prompt"] is None else given["num_images_per_prompt"]
    wrong_images = images_problems(images)
    problems += wrong_images
    length = text_length(pair, given["max_sequence_length"], problems)
    problems += clip_skip_problems(pair, given["clip_skip"])
    scale = given["guidance_scale"]
    guided = isinstance(scale, int | float) and scale > 1
    prompts = prompts_of(pair, given, length, guided, problems)
    pictures = prompts.count * images if prompts.count and not wrong_images else None
    size = None if {"width", "height"} & {each.field for each in problems} else (given["width"], given["height"])
    problems += _latents_problems(pair, given["latents"], pictures, size)
    problems += _generator_problems(given["generator"], pictures, pair.device)
    if recipe is not None:
        if recipe.plan.masked or given["region"] is not None:
            problems += subset_problems(pair.large, "large")
        if recipe.fill.cached:
            problems += subset_problems(pair.small, "small")
    raise_problems(problems)
    assert recipe is not None
    assert length is not None
    assert pictures is not None
    return Call(
        recipe=recipe,
        width=given["width"],
        height=given["height"],
        num_inference_steps=given["num_inference_steps"],
        guidance_scale=scale,
        sigmas=sigmas,
        speed=given["speed"],
        region=None if given["region"] is None else tuple(map(plain, given["region"])),
        prompts=prompts,
        num_images_per_prompt=images,
        pictures=pictures,
        clip_skip=given["clip_skip"],
        max_sequence_length=length,
        tensor_inputs=tuple(given["callback_on_step_end_tensor_inputs"]),
    )


def images_problems(value: Any) -> list[Problem]:
    """What is wrong with `num_images_per_prompt`."""
    fine = type(value) is int and value >= 1
    return [] if fine else [Problem("num_images_per_prompt", "an integer of at least 1", value)]


def _refused(given: Mapping[str, Any]) -> list[Problem]:
    """Arguments of diffusers' pipeline that would have no effect here."""
    found = []
    for name, what in _WITHOUT.items():
        value = given[name]
        if value is None or (isinstance(value, Mapping) and not value):
            continue
        default = _DEFAULTS[name]
        if default is None or type(value) not in (int, float) or value != default:
            found.append(Problem(name, f"{default}: this pipeline has no {what}", described(value)))
    return found


def _scheduler_problems(scheduler: Any, sigmas: list[float] | None) -> list[Problem]:
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

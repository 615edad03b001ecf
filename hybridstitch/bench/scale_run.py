"""Whole pictures by recipes and by diffusers' own pipeline, with random weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from diffusers import SD3Transformer2DModel

from hybridstitch.bench.contenders import Contender
from hybridstitch.bench.scale_cases import COMPILED, Setting
from hybridstitch.bench.scale_clock import Clock, peak_bytes, reset_peak
from hybridstitch.bench.scale_measure import CAUTION, GUIDANCE
from hybridstitch.bench.scale_models import TEXT_TOKENS, tokens_of
from hybridstitch.bench.scale_pipeline import random_pipeline
from hybridstitch.model.flops import forward_flops
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.recipe.catalogue import Catalogue

PLAIN = "diffusers' own pipeline"
CLIP_TOKENS = 77


@dataclass
class Whole:
    """Whole pictures by one contender.

    Attributes:
        contender: its name.
        seconds: of each call, from embeddings to pictures; on a CPU to latents.
        cost: FLOPs of the transformers relative to the large model at all steps.
        peak: peak memory in bytes, see `peak_bytes`.
    """

    contender: str
    seconds: list[float] = field(default_factory=list)
    cost: float = 1.0
    peak: int = 0

    @property
    def median(self) -> float:
        """Median seconds of a picture."""
        return median(self.seconds)


def whole_pictures(
    large: SD3Transformer2DModel,
    small: SD3Transformer2DModel,
    contenders: Sequence[Contender],
    setting: Setting,
    steps: int,
    repeats: int,
    deadline: float,
    speed: float,
    progress: Callable[[str], None],
) -> list[Whole]:
    """Generate a picture with each contender in turn, after one by diffusers' own pipeline.

    Both run the blocks of the transformers as these are, eager or compiled.

    Args:
        large, small: the transformers, on one device.
        contenders: recipes and steps.
        setting: size, pictures of a call, and mode of the transformers.
        steps: of diffusers' pipeline.
        repeats: rounds. On an accelerator, or if blocks are compiled, one round before them is not counted.
        deadline: `time.monotonic()` after which no round begins that would last longer.
        speed: FLOPs a second, which decide whether a first round fits.
        progress: receives a line for each contender.

    Returns:
        Diffusers' pipeline first; empty if the time does not suffice for one round.
    """
    device, dtype = large.device, large.dtype
    plain = random_pipeline(large, dtype, device)
    pipe = HybridStitchPipeline(plain, small, Catalogue.load())
    clock = Clock(device)
    arguments = _arguments(large, setting, steps)
    found = {PLAIN: Whole(PLAIN)} | {each.name: Whole(each.name) for each in contenders}

    def generate(contender: Contender | None) -> float:
        if contender is None:
            plain(**arguments, max_sequence_length=TEXT_TOKENS - CLIP_TOKENS)
            return 1.0
        schedule = {"sigmas": contender.sigmas} if contender.sigmas else {"num_inference_steps": contender.steps}
        given = {**arguments, **schedule, "max_sequence_length": TEXT_TOKENS - CLIP_TOKENS}
        report = pipe(**given, recipe=contender.recipe).report
        return report.flops_share * contender.steps / steps

    warm_up = 0 if device.type == "cpu" and setting.mode != COMPILED else 1
    dense = 2 * setting.pictures * steps * _flops(large, setting)
    longest = dense * (1 + len(contenders)) / speed
    for number in range(repeats + warm_up):
        if time.monotonic() + CAUTION * longest > deadline:
            break
        began = time.monotonic()
        for contender in (None, *contenders):
            name = PLAIN if contender is None else contender.name
            reset_peak(device)
            start = clock.now()
            found[name].cost = generate(contender)
            seconds = clock.now() - start
            found[name].peak = max(found[name].peak, peak_bytes(device))
            if number >= warm_up:
                found[name].seconds.append(seconds)
            if number == 0:
                progress(f"{name}, {setting.label}, {steps} steps: {seconds:.3g} s")
        longest = max(longest, time.monotonic() - began)
    return [each for each in found.values() if each.seconds]


def _flops(large: SD3Transformer2DModel, setting: Setting) -> int:
    tokens = tokens_of(setting.pixels, large.config)
    return forward_flops(large.config, tokens, tokens, TEXT_TOKENS)


def _arguments(large: SD3Transformer2DModel, setting: Setting, steps: int) -> Mapping[str, Any]:
    """Arguments of both pipelines: random embeddings, as the true text encoders would return them."""
    noise = torch.Generator(large.device).manual_seed(0)

    def random(*axes: int) -> torch.Tensor:
        return torch.randn(axes, device=large.device, dtype=large.dtype, generator=noise)

    widths: dict[str, tuple[int, ...]] = {"prompt_embeds": (TEXT_TOKENS, large.config.joint_attention_dim)}
    widths |= {"pooled_prompt_embeds": (large.config.pooled_projection_dim,)}
    embeddings = {
        f"{half}{name}": random(setting.pictures, *axes) for half in ("", "negative_") for name, axes in widths.items()
    }
    return {
        **embeddings,
        "height": setting.pixels,
        "width": setting.pixels,
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
        "generator": torch.Generator(large.device).manual_seed(0),
        "output_type": "latent" if large.device.type == "cpu" else "pt",
    }

"""Drawing a request in this process: what the handler does inside TorchServe, and `hybridstitch generate` without."""

from __future__ import annotations

from dataclasses import replace

import torch

from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.serving.request import GenerationRequest
from hybridstitch.serving.response import Rendering


def draw(pipeline: HybridStitchPipeline, request: GenerationRequest) -> Rendering:
    """One picture of a request that was parsed with the pipeline's own catalogue and size limits.

    The generator is the CPU's on every device, so that a seed means the same noise anywhere.
    """
    out = pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        recipe=request.recipe,
        speed=request.speed,
    )
    made = replace(request, recipe=out.report.recipe, speed=None)  # a speed may mean another recipe tomorrow
    return Rendering(made, out.images[0], out.report.to_dict())

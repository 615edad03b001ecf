"""Drawing requests in this process: what the handler does inside TorchServe, and `hybridstitch generate` without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from hybridstitch.pipeline import HybridStitchPipeline, StepWatcher
from hybridstitch.wire.documents import Rendering
from hybridstitch.wire.request import GenerationRequest


def generate(pipeline: HybridStitchPipeline, request: GenerationRequest) -> Rendering:
    """The pictures of a request that was parsed with the pipeline's own catalogue and size limits."""
    return generate_batch(pipeline, [request])[0]


def generate_batch(
    pipeline: HybridStitchPipeline, requests: Sequence[GenerationRequest], on_step: StepWatcher | None = None
) -> list[Rendering]:
    """The pictures of requests that can share a forward, see `GenerationRequest.batch_key`, drawn as one tensor.

    on_step: see the pipeline; pictures are numbered over all requests in their order.
    """
    first = requests[0]
    out = pipeline(
        [request.prompt for request in requests for _ in request.seeds],
        negative_prompt=[request.negative_prompt for request in requests for _ in request.seeds],
        width=first.width,
        height=first.height,
        num_inference_steps=first.num_inference_steps,
        guidance_scale=first.guidance_scale,
        generator=generators(requests),
        recipe=first.recipe,
        speed=first.speed,
        region=first.region,
        on_step=on_step,
    )
    renderings, start = [], 0
    for request in requests:
        stop = start + request.num_images
        texts = {"prompt": [request.prompt], "negative_prompt": [request.negative_prompt]}
        report = out.report.for_images(
            start, stop, pipeline.prompts.warnings(request.guidance_scale > 1, texts)
        ).to_dict()
        made = replace(request, recipe=out.report.recipe, speed=None)  # a speed may mean another recipe tomorrow
        renderings.append(Rendering(made, out.images[start:stop], report | {"seed": request.seed}))
        start = stop
    return renderings


def generators(requests: Sequence[GenerationRequest]) -> list[torch.Generator]:
    """One for each picture; the CPU's on every device, so that a seed means the same noise anywhere."""
    return [torch.Generator().manual_seed(seed) for request in requests for seed in request.seeds]

"""Requests to pictures: what the worker does inside TorchServe, and `hybridstitch generate` without it."""

from __future__ import annotations

from collections.abc import Sequence

from hybridstitch.generation import joined
from hybridstitch.pipeline import HybridStitchPipeline, StepWatcher
from hybridstitch.wire.documents import Rendering
from hybridstitch.wire.request import GenerationRequest


def generate(pipeline: HybridStitchPipeline, request: GenerationRequest) -> Rendering:
    """Generate the pictures of a request that was parsed with the pipeline's own catalogue and size limits."""
    return generate_batch(pipeline, [request])[0]


def generate_batch(
    pipeline: HybridStitchPipeline, requests: Sequence[GenerationRequest], on_step: StepWatcher | None = None
) -> list[Rendering]:
    """Generate the pictures of several requests as one tensor.

    Args:
        pipeline: The pair whose catalogue and size limits the requests were parsed with.
        requests: Requests with one `Generation.batch_key`.
        on_step: Called after every step; pictures are numbered over all requests in their order.

    Returns:
        A rendering for each request.
    """
    out = pipeline.generate(joined([request.generation for request in requests]), on_step=on_step)
    renderings, start = [], 0
    for request in requests:
        stop = start + request.num_images
        warnings = pipeline.prompts.warnings(request.generation.guided, request.generation.prompts.texts)
        report = out.report.for_images(start, stop, warnings).to_dict() | {"seed": request.seed}
        renderings.append(Rendering(request.reproducible(), out.images[start:stop], report))
        start = stop
    return renderings

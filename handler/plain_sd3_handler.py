"""The honest baseline: diffusers' own pipeline with the large model, behind the same requests and answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from hybridstitch.model.pair import SizeLimits, absent_parts
from hybridstitch.pipeline import StepWatcher
from hybridstitch.sampler import Step
from hybridstitch.serving.settings import without_stitching
from hybridstitch.serving.worker.render import generators
from hybridstitch.serving.worker.service import Endpoint
from hybridstitch.wire.documents import Rendering
from hybridstitch.wire.request import GenerationRequest


class PlainSD3Handler(Endpoint):
    """A TorchServe handler around `StableDiffusion3Pipeline`: nothing of this project takes part in drawing."""

    def load(self) -> None:
        """The large model from the archive."""
        settings = self.settings
        self.settings = replace(settings, defaults=without_stitching(settings.defaults))
        self.pipeline = StableDiffusion3Pipeline.from_pretrained(
            settings.folder, dtype=settings.dtype, use_safetensors=True, **absent_parts(settings.folder)
        ).to(settings.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.size_limits = SizeLimits.of(self.pipeline, self.pipeline.transformer)
        # Without the third text encoder, its tokens would be zeros that only cost time.
        self.text_length = 0 if self.pipeline.text_encoder_3 is None else 256

    def generate(self, requests: Sequence[GenerationRequest], progress: StepWatcher) -> list[Rendering]:
        """Pictures in one tensor; diffusers has no clock inside, so the report knows the total time alone."""
        first, started = requests[0], time.perf_counter()
        drawn = generators(requests)
        pictures = range(len(drawn))

        def on_step(pipe: StableDiffusion3Pipeline, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> Any:
            progress(
                pictures, Step(index, pipe.num_timesteps, timestep, tensors["latents"], tensors["latents"], 1.0, None)
            )
            return tensors

        images = self.pipeline(
            [request.prompt for request in requests for _ in request.seeds],
            negative_prompt=[request.negative_prompt for request in requests for _ in request.seeds],
            width=first.width,
            height=first.height,
            num_inference_steps=first.num_inference_steps,
            guidance_scale=first.guidance_scale,
            generator=drawn,
            max_sequence_length=self.text_length,
            callback_on_step_end=on_step,
            output_type="np",
        ).images
        if not np.isfinite(images).all():
            raise FloatingPointError("picture: not finite; a wider dtype than this one may help")
        milliseconds = round(1000 * (time.perf_counter() - started), 2)
        renderings, start = [], 0
        for request in requests:
            own = images[start : start + request.num_images]
            start += request.num_images
            report = _report(request, milliseconds, len(pictures))
            renderings.append(Rendering(request, self.pipeline.image_processor.numpy_to_pil(own), report))
        return renderings


def _report(request: GenerationRequest, milliseconds: float, batch_size: int) -> dict[str, Any]:
    return {
        "recipe": {"name": "plain"},
        "seed": request.seed,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "batch_size": batch_size,
        "large_token_share": 1.0,
        "flops_share": 1.0,
        "timing_ms": {"total": milliseconds},
        "warnings": [],
    }

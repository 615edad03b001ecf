"""The honest baseline: diffusers' own pipeline with the large model, behind the same requests and answers."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline

from hybridstitch.pair import SizeLimits, absent_parts
from hybridstitch.serving.endpoint import Endpoint
from hybridstitch.serving.request import GenerationRequest
from hybridstitch.serving.response import Rendering


class PlainSD3Handler(Endpoint):
    """A TorchServe handler around `StableDiffusion3Pipeline`: nothing of this project takes part in drawing."""

    def load(self) -> None:
        """The large model from the archive."""
        settings = self.settings
        # Both archives are packed with the same settings, and here nothing takes a recipe or a speed.
        defaults = {name: value for name, value in settings.defaults.items() if name not in ("recipe", "speed")}
        self.settings = replace(settings, defaults=defaults)
        self.pipeline = StableDiffusion3Pipeline.from_pretrained(
            settings.folder, dtype=settings.dtype, use_safetensors=True, **absent_parts(settings.folder)
        ).to(settings.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.size_limits = SizeLimits.of(self.pipeline, self.pipeline.transformer)
        # Without the third text encoder, its tokens would be zeros that only cost time.
        self.text_length = 0 if self.pipeline.text_encoder_3 is None else 256

    def draw(self, request: GenerationRequest) -> Rendering:
        """One picture; diffusers has no clock inside, so the report knows the total time alone."""
        started = time.perf_counter()
        image = self.pipeline(
            request.prompt,
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            max_sequence_length=self.text_length,
            output_type="np",
        ).images
        if not np.isfinite(image).all():
            raise FloatingPointError("picture: not finite; a wider dtype than this one may help")
        image = self.pipeline.image_processor.numpy_to_pil(image)[0]
        milliseconds = round(1000 * (time.perf_counter() - started), 2)
        report = {
            "recipe": {"name": "plain"},
            "seed": request.seed,
            "width": request.width,
            "height": request.height,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "large_token_share": 1.0,
            "flops_share": 1.0,
            "timing_ms": {"total": milliseconds},
            "warnings": [],
        }
        return Rendering(request, image, report)

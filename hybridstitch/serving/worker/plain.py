"""The baseline endpoint: diffusers' own pipeline with the large model, behind the same requests and answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from hybridstitch.base.mark import mark
from hybridstitch.generation import Generation, joined
from hybridstitch.model.dtype import choose_dtype, dtype_name
from hybridstitch.model.lora import Adapters, fuse
from hybridstitch.model.lora_files import fused_in
from hybridstitch.model.offload import Offload
from hybridstitch.model.pair import find_files, load_pipeline
from hybridstitch.model.quantise import quantise
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.pipeline import StepWatcher
from hybridstitch.sampler import Step
from hybridstitch.serving.settings import without_stitching
from hybridstitch.serving.worker.service import Service
from hybridstitch.wire.documents import Rendering
from hybridstitch.wire.request import GenerationRequest


class PlainService(Service):
    """Generates by `StableDiffusion3Pipeline`: no code of this project generates the pictures."""

    stitches = False

    def load(self) -> None:
        """Load the large model from the archive."""
        settings = self.settings
        self.settings = replace(settings, defaults=without_stitching(settings.defaults))
        found = find_files(settings.folder, None, None, plain=True)
        dtype = settings.dtype or choose_dtype(found, settings.device)
        self.pipeline = load_pipeline(found, dtype)
        fuse({"large": self.pipeline.transformer}, fused_in(settings.folder))
        large = {"large": self.pipeline.transformer, "text_encoder_3": self.pipeline.text_encoder_3}
        quantise(large, settings.quantise)
        self.adapters = Adapters({"large": (self.pipeline, "transformer")})
        self.adapters.load_packed(settings.folder)
        if settings.offload == "none":
            self.pipeline.to(settings.device)
        else:
            parts = {name: part for name, part in self.pipeline.components.items() if isinstance(part, nn.Module)}
            Offload(parts, settings.device, offload=settings.offload)
        self.pipeline.set_progress_bar_config(disable=True)
        self.size_limits = SizeLimits.of(self.pipeline, self.pipeline.transformer)
        # Without the third text encoder its tokens would be zeros, which only cost time.
        self.text_length = 0 if self.pipeline.text_encoder_3 is None else 256

    def generate(self, requests: Sequence[GenerationRequest], progress: StepWatcher) -> list[Rendering]:
        """Generate pictures as one tensor. The report has the total time alone: diffusers measures no parts."""
        started = time.perf_counter()
        generation = joined([request.generation for request in requests])
        numbers = range(generation.pictures)

        def on_step(pipe: StableDiffusion3Pipeline, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> Any:
            latents, sigma = tensors["latents"], float(pipe.scheduler.sigmas[index])
            progress(numbers, Step(index, pipe.num_timesteps, timestep, sigma, latents, latents, 1.0, None))
            return tensors

        with self.adapters.acting(generation.lora):
            images = self.pipeline(
                **generation.prompts.texts,
                **_settings(generation, without=("lora",)),
                generator=generation.generators(),
                max_sequence_length=self.text_length,
                callback_on_step_end=on_step,
                output_type="np",
            ).images
        if not np.isfinite(images).all():
            raise FloatingPointError("picture: not finite; a wider dtype than this one may help")
        milliseconds = round(1000 * (time.perf_counter() - started), 2)
        pictures = self.pipeline.image_processor.numpy_to_pil(images)
        if self.settings.mark:
            for picture in pictures:
                mark(picture)
        renderings, start = [], 0
        for request in requests:
            own = pictures[start : start + request.num_images]
            start += request.num_images
            report = _report(request, milliseconds, len(pictures)) | {"dtype": dtype_name(self.pipeline.dtype)}
            renderings.append(Rendering(request, own, report))
        return renderings


def _settings(generation: Generation, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of the generation: all but those of stitching, which are None, and of `without`."""
    return {name: value for name, value in generation.settings().items() if value is not None and name not in without}


def _report(request: GenerationRequest, milliseconds: float, batch_size: int) -> dict[str, Any]:
    return {
        "recipe": {"name": "plain"},
        "seed": request.seed,
        **_settings(request.generation),
        "batch_size": batch_size,
        "large_token_share": 1.0,
        "flops_share": 1.0,
        "timing_ms": {"total": milliseconds},
        "warnings": [],
    }

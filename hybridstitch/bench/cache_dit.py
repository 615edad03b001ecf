"""cache-dit (github.com/vipshop/cache-dit) as a rival: diffusers' own SD3 pipeline with a cache of its blocks."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline

from hybridstitch.base.extras import extra
from hybridstitch.bench.specs import CACHE_DIT, CacheSettings
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.generation import Generation
from hybridstitch.model.flops import block_flops, forward_flops
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.report import Stopwatch


class CacheDitPipeline:
    """diffusers' `StableDiffusion3Pipeline` with the large model of a pair, accelerated by `cache_dit.enable_cache`.

    cache-dit replaces the forward of a transformer and the `__call__` of a pipeline's class. So each such pipeline has
    its own class and its own copy of the transformer's modules. The copy shares the weights of the pair.

    Attributes:
        block_calls: How often each block of the transformer ran for the last picture.
        forwards: How often the transformer ran for it.
    """

    def __init__(self, pipe: HybridStitchPipeline, settings: CacheSettings):
        """Prepare the pipeline.

        Args:
            pipe: The pair.
            settings: From `read_cache_dit`.

        Raises:
            InvalidInput: The large model has too few blocks for these settings.
            MissingExtra: cache-dit is not installed.
        """
        os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")  # it reads this on import, and logs to stdout
        with extra("bench"):
            import cache_dit
        layers = pipe.large.config.num_layers
        if settings["Fn"] + settings["Bn"] >= layers:
            expected = f"Fn + Bn below {layers}, the number of blocks of the large model"
            raise InvalidInput([Problem("recipes", expected, f"{CACHE_DIT}Fn={settings['Fn']},Bn={settings['Bn']}")])
        self._pipe = pipe
        shared = {id(each): each for each in (*pipe.large.parameters(), *pipe.large.buffers())}
        self._transformer = copy.deepcopy(pipe.large, shared)
        self._inner = _own_class()(**{**pipe.components, "transformer": self._transformer})
        self._inner.set_progress_bar_config(disable=True)
        self.block_calls = [0] * layers
        self.forwards = 0
        for index, block in enumerate(self._transformer.transformer_blocks):
            block.register_forward_pre_hook(lambda *_, index=index: self._count(index))
        self._transformer.pos_embed.register_forward_pre_hook(lambda *_: self._count(None))
        cache_dit.enable_cache(
            self._inner, cache_config=_cache_config(cache_dit, settings), calibrator_config=_calibrator(settings)
        )

    @torch.no_grad()
    def generate(self, generation: Generation) -> tuple[np.ndarray, float, float]:
        """Generate one picture with the prompts, noise and steps that `HybridStitchPipeline.generate` would take.

        Returns:
            The picture, `(height, width, 3)` in 0..1; the milliseconds of denoising; and the FLOPs relative to all
            blocks at all steps. These count the blocks that ran, and no work of the cache itself.

        Raises:
            FloatingPointError: The latents or the picture are not finite.
        """
        pipe, guided = self._pipe, generation.guided
        cond, uncond, pooled, pooled_uncond = pipe.prompts.encode(guided, generation.prompts, generation.encoding)
        latents = self._inner.prepare_latents(
            generation.pictures, pipe.large.config.in_channels, generation.height, generation.width, cond.dtype,
            cond.device, generation.generators(), None,
        )  # fmt: skip
        self.block_calls, self.forwards = [0] * len(self.block_calls), 0
        watch = Stopwatch(pipe.device)
        latents = self._inner(
            prompt_embeds=cond,
            negative_prompt_embeds=uncond,
            pooled_prompt_embeds=pooled,
            negative_pooled_prompt_embeds=pooled_uncond,
            latents=latents,
            num_inference_steps=generation.num_inference_steps,
            guidance_scale=generation.guidance_scale,
            width=generation.width,
            height=generation.height,
            output_type="latent",
        ).images
        ms = watch.lap("denoise")
        if not torch.isfinite(latents).all():
            raise FloatingPointError("latents: not finite after denoising")
        grid = [side // self._transformer.config.patch_size for side in latents.shape[-2:]]
        return pipe.decode(latents, "np")[0], ms, self._cost(grid[0] * grid[1], cond.shape[1])

    def _count(self, block: int | None) -> None:
        if block is None:
            self.forwards += 1
        else:
            self.block_calls[block] += 1

    def _cost(self, image_tokens: int, text_tokens: int) -> float:
        config, size = self._transformer.config, (image_tokens, image_tokens, text_tokens)
        plain = self.forwards * forward_flops(config, *size)
        skipped = sum(
            (self.forwards - calls) * block_flops(config, index, *size) for index, calls in enumerate(self.block_calls)
        )
        return 1 - skipped / plain


def _own_class() -> type[StableDiffusion3Pipeline]:
    return type("StableDiffusion3PipelineWithCache", (StableDiffusion3Pipeline,), {})


def _cache_config(cache_dit: Any, settings: CacheSettings) -> Any:
    given = {
        "residual_diff_threshold": settings["threshold"],
        "Fn_compute_blocks": settings["Fn"],
        "Bn_compute_blocks": settings["Bn"],
        "max_warmup_steps": settings["warmup"],
        "max_continuous_cached_steps": settings["continuous"],
    }
    return cache_dit.DBCacheConfig(**given)


def _calibrator(settings: Mapping[str, Any]) -> Any:
    """Return the configuration of the calibrator, None without one.

    The last block of SD3 returns no text rows. With Bn=0 cache-dit would forecast the text rows that this block never
    returned, and fail by an assertion. So only Bn above 0 has a calibrator of the text rows.
    """
    from cache_dit import DMDCalibratorConfig, FoCaCalibratorConfig, TaylorSeerCalibratorConfig

    text = settings["Bn"] > 0
    if settings["calibrator"] == "taylorseer":
        return TaylorSeerCalibratorConfig(taylorseer_order=settings["order"], enable_encoder_calibrator=text)
    kinds = {"dmd": DMDCalibratorConfig, "foca": FoCaCalibratorConfig}
    kind = kinds.get(settings["calibrator"])
    return None if kind is None else kind(enable_encoder_calibrator=text)

"""How fast the parts of the pair run."""

import statistics
import time
from collections.abc import Callable

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from hybridstitch.model.flops import forward_flops
from training.models import CONTEXT_LENGTH, LATENT_SIDE


def _guided_step(transformer: SD3Transformer2DModel) -> Callable[[], torch.Tensor]:
    """One forward of a guided 128 px step: batch 2, 256 image tokens, all text tokens."""
    device, width = transformer.device, transformer.config.joint_attention_dim
    latents = torch.randn(2, 16, LATENT_SIDE, LATENT_SIDE, device=device)
    context, pooled = torch.randn(2, CONTEXT_LENGTH, width, device=device), torch.randn(2, width, device=device)
    timestep = torch.full((2,), 500.0, device=device)
    return lambda: transformer(latents, context, pooled, timestep).sample


@torch.no_grad()
def _median_milliseconds(work: Callable[[], torch.Tensor], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work().flatten()[0].item()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def forward_milliseconds(transformer: SD3Transformer2DModel, repeats: int = 30) -> float:
    """Median time of a guided step's forward."""
    return _median_milliseconds(_guided_step(transformer), repeats)


def forward_gflops(transformer: SD3Transformer2DModel) -> float:
    """Floating point operations of a guided step's forward, in billions."""
    tokens = (LATENT_SIDE // transformer.config.patch_size) ** 2
    return 2 * forward_flops(transformer.config, tokens, tokens, CONTEXT_LENGTH) / 1e9


def decode_milliseconds(pipeline: StableDiffusion3Pipeline, repeats: int = 10) -> float:
    """Median time of decoding one picture."""
    latents = torch.randn(1, 16, LATENT_SIDE, LATENT_SIDE, device=pipeline.vae.device)
    return _median_milliseconds(lambda: pipeline.vae.decode(latents).sample, repeats)

"""How far off velocities are on held-out scenes, the large and the small model's at the same noise."""

import torch
from diffusers import StableDiffusion3Pipeline
from torch.nn import functional

from training import stages
from training.distil import noised, velocity
from training.models import encode_prompts

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
"""Noise levels; a picture of 28 steps passes half of its steps above the fourth."""
BATCH = 16


@torch.no_grad()
def velocity_errors(
    pipelines: dict[str, StableDiffusion3Pipeline], pixels: torch.Tensor, prompts: list[str]
) -> dict[str, dict[str, float]]:
    """Mean squared errors by noise level, and as `training` that of the noise levels trained on.

    Of each model against `noise - clean`, which no model can know, and as `apart` of the small model against the
    large one. `prompts` are those of the scenes `(count, 3, 128, 128)`, and none is dropped.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    shared = next(iter(pipelines.values()))
    encoders = torch.nn.ModuleList([shared.text_encoder, shared.text_encoder_2])
    sums: dict[str, dict[str, float]] = {}
    for start in range(0, len(prompts), BATCH):
        part, device = pixels[start : start + BATCH], shared.vae.device
        clean = shared.vae.encode(part.to(device)).latent_dist.mode() * shared.vae.config.scaling_factor
        noise = torch.randn(clean.shape, generator=generator).to(device)
        context, pooled = encode_prompts(shared.tokenizer, encoders, prompts[start : start + BATCH])
        levels = {f"{level}": torch.full((len(clean),), level, device=device) for level in LEVELS}
        levels["training"] = stages.noise_levels(len(clean), stages.SHIFTS["fine"], device)
        for name, sigma in levels.items():
            states = noised(clean, sigma, noise)
            answers = {
                size: velocity(pipeline.transformer, states, context, pooled, sigma)
                for size, pipeline in pipelines.items()
            }
            errors = {size: functional.mse_loss(answer, noise - clean) for size, answer in answers.items()}
            errors["apart"] = functional.mse_loss(answers["small"], answers["large"])
            for size, error in errors.items():
                share = error.item() * len(clean) / len(prompts)
                found = sums.setdefault(size, {})
                found[name] = found.get(name, 0.0) + share
    return sums

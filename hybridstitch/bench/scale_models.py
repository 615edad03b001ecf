"""The transformers of Stable Diffusion 3 and 3.5 in their true shapes, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel

from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.model.memory import LARGE, TRANSFORMER_DEFAULTS, MemoryPlan, Weights
from hybridstitch.model.size_limits import SizeLimits

TEXT_TOKENS = 333
"""Text tokens of SD3 with all three encoders: 77 of CLIP and 256 of T5."""
LATENT_PIXELS = 8
"""Pixels of the picture for each pixel of the latents, along a side."""
_SHARED: Mapping[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "qk_norm": "rms_norm",
}
SHAPES: Mapping[str, dict[str, Any]] = {
    "SD3.5-Large": {**_SHARED, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432},
    "SD3.5-Medium": {
        **_SHARED,
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
    },
    "SD3-Medium": {
        **_SHARED,
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "qk_norm": None,
    },
}
"""Configurations of the public models."""
VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 16,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
}
"""Configuration of the autoencoder that all of them share."""
SCALES: Mapping[str, tuple[str, str]] = {
    "sd35": ("SD3.5-Large", "SD3.5-Medium"),
    "sd3": ("SD3.5-Large", "SD3-Medium"),
}
"""For each scale, the large and the small model. They share latents, text and noise schedule."""


def shape_of(model: str) -> Any:
    """The configuration of a model, with its values as attributes."""
    return SimpleNamespace(**{"dual_attention_layers": (), **SHAPES[model]})


def cut(shape: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The same configuration with its first layers only, of full width."""
    dual = tuple(layer for layer in shape.get("dual_attention_layers", ()) if layer < layers)
    return {**shape, "num_layers": min(layers, shape["num_layers"]), "dual_attention_layers": dual}


def random_transformer(
    shape: Mapping[str, Any], dtype: torch.dtype, device: torch.device | str, seed: int = 0
) -> SD3Transformer2DModel:
    """A transformer with random weights, created on its device: nothing is loaded or copied.

    Args:
        shape: its configuration.
        dtype: of the weights.
        device: where it is created.
        seed: of the weights.
    """
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**shape)
    torch.nn.Module.to(transformer, dtype)  # diffusers' own `to` warns of parts that it keeps in float32: here none
    transformer.to_empty(device=device)
    noise = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, values in [*transformer.named_parameters(), *transformer.named_buffers()]:
            if name.endswith("bias"):
                values.zero_()
            elif values.dim() == 1:  # the weights of norms
                values.fill_(1)
            else:
                values.normal_(std=0.02, generator=noise)
    return transformer.eval().requires_grad_(False)


def tokens_of(pixels: int, shape: Any) -> int:
    """Image tokens of a square picture."""
    return (pixels // (LATENT_PIXELS * shape.patch_size)) ** 2


def memory_plan(large: str, small: str, dtype: torch.dtype) -> MemoryPlan:
    """The memory of a pair of whole models in this dtype, with the autoencoder and without text encoders."""
    configs: dict[str, Mapping[str, Any]] = {
        LARGE: TRANSFORMER_DEFAULTS | SHAPES[large],
        SMALL_FOLDER: TRANSFORMER_DEFAULTS | SHAPES[small],
        "vae": VAE,
    }
    name = str(dtype).removeprefix("torch.")
    with torch.device("meta"):
        parts = {
            LARGE: SD3Transformer2DModel(**SHAPES[large]),
            SMALL_FOLDER: SD3Transformer2DModel(**SHAPES[small]),
            "vae": AutoencoderKL(**VAE),
        }
    weights = {
        part: Weights({name: sum(each.numel() for each in [*module.parameters(), *module.buffers()])})
        for part, module in parts.items()
    }
    return MemoryPlan(weights, configs, TEXT_TOKENS, SizeLimits.of_configs(SHAPES[large], SHAPES[small], VAE))

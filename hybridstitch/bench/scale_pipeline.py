"""Pipelines of diffusers around transformers with random weights: no file is read."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hybridstitch.bench.scale_models import VAE

CLIP_WIDTHS = (768, 1280)
"""Widths of the two CLIP encoders of SD3. Here each has one layer, since no figure depends on it."""


def random_pipeline(
    transformer: SD3Transformer2DModel | None, dtype: torch.dtype, device: torch.device | str
) -> StableDiffusion3Pipeline:
    """A pipeline with the true autoencoder and scheduler of SD3, shallow CLIP encoders, and no T5.

    Args:
        transformer: the large model.
        dtype: of the other parts.
        device: where they are created.
    """
    tokenizer = _tokenizer()
    parts: dict[str, Any] = {"transformer": transformer, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    with torch.device(device):
        parts["vae"] = AutoencoderKL(**VAE)
        for name, width in zip(("text_encoder", "text_encoder_2"), CLIP_WIDTHS, strict=True):
            parts[name] = CLIPTextModelWithProjection(_text_config(width, tokenizer))
    for name in ("vae", "text_encoder", "text_encoder_2"):
        torch.nn.Module.to(parts[name], dtype).eval().requires_grad_(False)
    pipeline = StableDiffusion3Pipeline(
        **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, text_encoder_3=None, tokenizer_3=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _text_config(width: int, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=width // 64,
        num_hidden_layers=1,
        projection_dim=width,
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer() -> CLIPTokenizer:
    """A tokenizer whose words are single letters."""
    letters = sorted(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)

"""Real SD3 pipelines at toy size with random weights, in the layouts of SD3, SD3.5-Large and SD3.5-Medium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from hybridstitch import HybridStitchPipeline
from hybridstitch.testing.toys import tiny_transformer


def make_pipeline(layout: str, seed: int = 0, **config: Any) -> StableDiffusion3Pipeline:
    """A whole pipeline without a third text encoder."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    text = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=16,
        vocab_size=len(tokenizer),
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.1,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=tiny_transformer(layout, seed=seed, **config),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=CLIPTextModelWithProjection(text).eval(),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text).eval(),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_pair_folder(path: Path, layout: str = "sd35-large", small_layout: str = "sd35-medium") -> Path:
    """A packed pair: the large model's pipeline and, in `transformer_small`, a smaller one of another layout."""
    make_pipeline(layout).save_pretrained(path, safe_serialization=True)
    tiny_transformer(small_layout, layers=2, heads=1, seed=1).save_pretrained(
        path / "transformer_small", safe_serialization=True
    )
    return path


def load_pipeline(folder: Path, **options: Any) -> HybridStitchPipeline:
    """Return the pipeline of a packed pair, without progress bars."""
    pipe = HybridStitchPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _tokenizer() -> CLIPTokenizer:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = sorted(bytes_to_unicode().values())
    words = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(letters + [x + "</w>" for x in letters] + words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)

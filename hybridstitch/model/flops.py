"""The FLOPs of a forward of the SD3 transformer: a measure of cost that no machine influences."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

TIMESTEP_CHANNELS = 256
"""Channels of the sinusoidal embedding of a timestep in every SD3 transformer."""


def forward_flops(
    config: Any,
    rendered: int,
    image_tokens: int,
    text_tokens: int,
    skipped: Collection[int] = (),
    text_rendered: int | None = None,
) -> int:
    """FLOPs of one forward for one picture, for cond or uncond alone: linear layers and attention.

    A multiply-add counts as two. Norms and activations are left out.

    Args:
        config: of an SD3Transformer2DModel.
        rendered: number of image tokens whose rows are computed.
        image_tokens: number of image tokens attended to; equal to `rendered` in a dense forward.
        text_tokens: number of text tokens attended to.
        skipped: numbers of the layers that the forward leaves out.
        text_rendered: number of text tokens whose rows are computed; None for all.
    """
    layers = set(range(config.num_layers)).difference(skipped)
    width = config.num_attention_heads * config.attention_head_dim
    words = text_tokens if text_rendered is None else text_rendered
    blocks = sum(block_flops(config, index, rendered, image_tokens, text_tokens, words) for index in layers)
    patch = config.patch_size**2
    total = blocks + 2 * width * patch * (config.in_channels * image_tokens + config.out_channels * rendered)
    total += 2 * width * config.joint_attention_dim * words
    embedders = TIMESTEP_CHANNELS + config.pooled_projection_dim + 2 * width
    return int(total + 2 * width**2 * 2 + 2 * width * embedders)  # shift and scale of the last norm


def block_flops(
    config: Any, index: int, rendered: int, image_tokens: int, text_tokens: int, text_rendered: int | None = None
) -> int:
    """FLOPs of one block of such a forward.

    Args:
        config: of an SD3Transformer2DModel.
        index: number of the block, from 0.
        rendered, image_tokens, text_tokens, text_rendered: as in `forward_flops`.
    """
    width = config.num_attention_heads * config.attention_head_dim
    words = text_tokens if text_rendered is None else text_rendered
    joint_rows, joint_keys = rendered + words, image_tokens + text_tokens
    total = 24 * width**2 * joint_rows  # query, key, value, out: 4; MLP: 8 weights a pair of channels
    total += 4 * width * joint_rows * joint_keys
    modulation = 12  # rows of shift, scale and gate
    if index == config.num_layers - 1:
        total -= 18 * width**2 * words  # the last block only reads the text: no out projection, no MLP
        modulation -= 4
    if index in config.dual_attention_layers:
        total += 8 * width**2 * rendered + 4 * width * rendered * image_tokens
        modulation += 3
    return int(total + 2 * width**2 * modulation)

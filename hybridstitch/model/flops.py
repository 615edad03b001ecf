"""The FLOPs of a forward of the SD3 transformer: a measure of cost that no machine influences."""

from __future__ import annotations

from typing import Any

TIMESTEP_CHANNELS = 256
"""Channels of the sinusoidal embedding of a timestep in every SD3 transformer."""


def forward_flops(config: Any, rendered: int, image_tokens: int, text_tokens: int) -> int:
    """FLOPs of one forward for one picture, for cond or uncond alone: linear layers and attention.

    A multiply-add counts as two. Norms and activations are left out.

    Args:
        config: of an SD3Transformer2DModel.
        rendered: number of image tokens whose rows are computed.
        image_tokens: number of image tokens attended to; equal to `rendered` in a dense forward.
        text_tokens: number of text tokens.
    """
    width = config.num_attention_heads * config.attention_head_dim
    joint_rows, joint_keys = rendered + text_tokens, image_tokens + text_tokens
    image_linear = 24 * width**2 * rendered  # query, key, value, out: 4; MLP: 8 weights a pair of channels
    text_linear = 24 * width**2 * text_tokens
    joint_attention = 4 * width * joint_rows * joint_keys

    total = config.num_layers * (image_linear + text_linear + joint_attention)
    total -= 18 * width**2 * text_tokens  # the last block only reads the text: no out projection, no MLP
    image_attention = 8 * width**2 * rendered + 4 * width * rendered * image_tokens
    total += len(config.dual_attention_layers) * image_attention

    patch = config.patch_size**2
    total += 2 * width * patch * (config.in_channels * image_tokens + config.out_channels * rendered)
    total += 2 * width * config.joint_attention_dim * text_tokens

    dual = len(config.dual_attention_layers)
    modulation = 12 * config.num_layers + 3 * dual - 2  # rows of shift, scale and gate; in the last block fewer
    embedders = TIMESTEP_CHANNELS + config.pooled_projection_dim + 2 * width
    return int(total + 2 * width**2 * modulation + 2 * width * embedders)

"""The SD3 transformer (MMDiT) on all image tokens, or on a subset of them with cached keys and values.

A subset is possible because only attention mixes tokens. In SD3, SD3.5-Large and SD3.5-Medium the position table is
added before the first block, and norms, modulation and MLPs work on each token alone. So the row of a token can be
computed alone if attention finds keys and values of all other tokens: those of the last dense forward. RAS
(arXiv 2502.10389) does the same, with the last prediction as fill.

Dense and subset forwards both call the transformer's own `forward`. So hooks, offloading, adapters and gradient
checkpointing work. The subset is gathered after the position table and scattered after the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from torch import Tensor

from hybridstitch.errors import Problem


def gather_rows(rows: Tensor, tokens: Tensor) -> Tensor:
    """Rows `(batch, n, width)` at indices `tokens` `(batch, k)`, as `(batch, k, width)`."""
    return rows[_batch_index(tokens), tokens]


def scatter_rows(rows: Tensor, tokens: Tensor, new: Tensor) -> Tensor:
    """A copy of `rows` `(batch, n, width)` with `new` `(batch, k, width)` at indices `tokens` `(batch, k)`."""
    return rows.index_put((_batch_index(tokens), tokens), new.to(rows.dtype))


def _batch_index(tokens: Tensor) -> Tensor:
    """Batch indices `(batch, 1)` for `rows[batch_index, tokens]`.

    This indexing copies whole rows, which is several times faster than `gather` and `scatter_` on a CPU.
    """
    return torch.arange(tokens.shape[0], device=tokens.device).unsqueeze(1)


def patchify(latents: Tensor, patch_size: int) -> Tensor:
    """Latents `(batch, channels, height, width)` as token rows; the inverse of `unpatchify`."""
    cells = latents.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return torch.einsum("nchpwq->nhwpqc", cells).flatten(3).flatten(1, 2)


def unpatchify(rows: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Token rows `(batch, n, patch * patch * channels)` of a grid as latents `(batch, channels, height, width)`."""
    batch, _, width = rows.shape
    cells = rows.reshape(batch, *grid, patch_size, patch_size, width // patch_size**2)
    latents = torch.einsum("nhwpqc->nchpwq", cells)
    return latents.reshape(batch, latents.shape[1], grid[0] * patch_size, grid[1] * patch_size)


class KVCache:
    """Keys and values of every attention layer, for one generation of one model.

    Each layer has one buffer with the rows of all image tokens, followed by those of the text. Attention reads the
    buffer as it is, so that filling it costs no more than the concatenation that it replaces. Keys are stored after
    their norm. Memory: `2 * layers * batch * (image + text tokens) * width` elements; cond and uncond are separate
    items of the batch.
    """

    def __init__(self) -> None:
        self._layers: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def filled(self) -> bool:
        """Whether a dense forward has filled the cache, which a subset needs."""
        return bool(self._layers)

    def __getitem__(self, layer: str) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each `(batch, heads, image + text tokens, head_dim)`."""
        return self._layers[layer]

    def update(
        self,
        layer: str,
        key: Tensor,
        value: Tensor,
        text: tuple[Tensor, Tensor] | None,
        tokens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Write fresh rows and return all keys and values of the layer.

        Args:
            layer: name of the layer.
            key: `(batch, heads, k, head_dim)` of the image tokens at `tokens`, or of all.
            value: likewise.
            text: key and value of the text tokens; None in an image-only attention.
            tokens: indices `(batch, k)` of the rows; None for all.
        """
        if tokens is None:
            self._allocate(layer, key, text)
        keys, values = self._layers[layer]
        for buffer, fresh, fresh_text in zip((keys, values), (key, value), text or (None, None), strict=True):
            if tokens is None:
                buffer[:, :, : fresh.shape[2]] = fresh
            else:
                buffer[_batch_index(tokens), :, tokens] = fresh.transpose(1, 2)
            if fresh_text is not None:
                buffer[:, :, -fresh_text.shape[2] :] = fresh_text
        return keys, values

    def _allocate(self, layer: str, key: Tensor, text: tuple[Tensor, Tensor] | None) -> None:
        batch, heads, rows, head_dim = key.shape
        shape = (batch, heads, rows + (text[0].shape[2] if text else 0), head_dim)
        if layer not in self._layers or self._layers[layer][0].shape != shape:
            self._layers[layer] = (key.new_empty(shape), key.new_empty(shape))


class CachedJointAttention:
    """SD3's attention, joint (`attn`) or image-only (`attn2`), with keys and values of absent tokens from a cache."""

    def __init__(self, layer: str):
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        kv_cache: KVCache | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        query = _heads(attn, attn.to_q(hidden_states), attn.norm_q)
        key = _heads(attn, attn.to_k(hidden_states), attn.norm_k)
        value = _heads(attn, attn.to_v(hidden_states), None)
        text = None
        if encoder_hidden_states is not None:
            text_query = _heads(attn, attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)
            text_key = _heads(attn, attn.add_k_proj(encoder_hidden_states), attn.norm_added_k)
            text = (text_key, _heads(attn, attn.add_v_proj(encoder_hidden_states), None))
            query = torch.cat([query, text_query], dim=2)

        if kv_cache is not None:
            key, value = kv_cache.update(self.layer, key, value, text, tokens)
        elif text is not None:
            key, value = torch.cat([key, text[0]], dim=2), torch.cat([value, text[1]], dim=2)

        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).flatten(2)
        image = attn.to_out[1](attn.to_out[0](attended[:, : hidden_states.shape[1]]))
        if encoder_hidden_states is None:
            return image
        context = attended[:, hidden_states.shape[1] :]
        return image, context if attn.context_pre_only else attn.to_add_out(context)


def _heads(attn: Attention, rows: Tensor, norm: torch.nn.Module | None) -> Tensor:
    """`(batch, n, heads * head_dim)` as `(batch, heads, n, head_dim)`, normed if there is a norm."""
    rows = rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return rows if norm is None else norm(rows)


@contextmanager
def cached_attention(transformer: SD3Transformer2DModel) -> Iterator[None]:
    """Install a `CachedJointAttention` in every attention layer; restore the original ones on exit and on errors."""
    originals = dict(transformer.attn_processors)
    transformer.set_attn_processor({name: CachedJointAttention(name) for name in originals})
    try:
        yield
    finally:
        transformer.set_attn_processor(originals)


def mmdit_forward(
    transformer: SD3Transformer2DModel,
    latents: Tensor,
    timestep: Tensor,
    context: Tensor,
    pooled: Tensor,
    tokens: Tensor | None = None,
    kv_cache: KVCache | None = None,
) -> Tensor:
    """Velocity of the image tokens `(batch, tokens or k, patch * patch * channels)`.

    With a cache, call it inside `cached_attention(transformer)`. `unpatchify` of a dense result equals diffusers' own
    output bit by bit in float32.

    Args:
        transformer: the large or the small model.
        latents: `(batch, channels, height, width)`, the whole picture also for a subset.
        timestep: `(batch,)`.
        context: prompt embeddings `(batch, text tokens, width)`.
        pooled: pooled prompt embeddings `(batch, width)`.
        tokens: indices `(batch, k)` of the image tokens, row-major; None for all.
        kv_cache: filled by a dense forward, read and updated by one on a subset. None: no cache, dense only.

    Raises:
        ValueError: for a subset without a filled cache.
    """
    if tokens is not None and (kv_cache is None or not kv_cache.filled):
        raise ValueError("tokens: expected a K/V cache that a dense forward has filled, got none")
    patch_size = transformer.config.patch_size
    with ExitStack() as stack:
        if tokens is not None:
            image_tokens = (latents.shape[-2] // patch_size) * (latents.shape[-1] // patch_size)
            stack.enter_context(_subset(transformer, tokens, image_tokens))
        velocity = transformer(
            hidden_states=latents,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=timestep,
            joint_attention_kwargs=None if kv_cache is None else {"kv_cache": kv_cache, "tokens": tokens},
            return_dict=False,
        )[0]
    rows = patchify(velocity, patch_size)
    return rows if tokens is None else gather_rows(rows, tokens)


@contextmanager
def _subset(transformer: SD3Transformer2DModel, tokens: Tensor, image_tokens: int) -> Iterator[None]:
    """Restrict the blocks to these tokens while it is open; the output is zero at the others."""

    def gather(_module: torch.nn.Module, _inputs: object, rows: Tensor) -> Tensor:
        return gather_rows(rows, tokens)

    def scatter(_module: torch.nn.Module, _inputs: object, rows: Tensor) -> Tensor:
        return scatter_rows(rows.new_zeros(rows.shape[0], image_tokens, rows.shape[2]), tokens, rows)

    with (
        transformer.pos_embed.register_forward_hook(gather),
        transformer.proj_out.register_forward_hook(scatter),
    ):
        yield


def subset_problems(transformer: SD3Transformer2DModel, name: str) -> list[Problem]:
    """What is attached to a transformer that a forward on a subset of the tokens would bypass or break."""
    found = []
    foreign = {type(each).__name__ for each in transformer.attn_processors.values()} - {
        JointAttnProcessor2_0.__name__,
        CachedJointAttention.__name__,
    }
    if foreign:
        expected = f"SD3's own ({JointAttnProcessor2_0.__name__}) where a recipe renders some of the tokens"
        found.append(Problem(f"{name}.attn_processors", expected, ", ".join(sorted(foreign))))
    compiled = getattr(transformer, "_compiled_call_impl", None) is not None or hasattr(transformer, "_orig_mod")
    if compiled or hasattr(transformer.forward, "_torchdynamo_orig_callable"):
        expected = "a transformer that torch.compile has not compiled, where a recipe renders some of the tokens"
        found.append(Problem(name, expected, "a compiled one"))
    return found

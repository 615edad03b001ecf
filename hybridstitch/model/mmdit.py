"""The SD3 transformer (MMDiT) on all image tokens, or on a subset of them with cached keys and values.

A subset is possible because only attention mixes tokens. In SD3, SD3.5-Large and SD3.5-Medium the position table is
added before the first block, and norms, modulation and MLPs work on each token alone. So the row of a token can be
computed alone if attention finds keys and values of all other tokens: those of the last dense forward. RAS
(arXiv 2502.10389) does the same, with the last prediction as fill.

Dense and subset forwards both call the transformer's own `forward`. So hooks, offloading, adapters and gradient
checkpointing work. The subset is gathered after the position table and scattered after the last layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from torch import Tensor, nn

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


KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each `(batch, heads, image tokens (and text tokens), head_dim)`."""
Rows = tuple[Tensor, Tensor]
"""The rows of a subset: batch indices `(batch, 1)` and tokens `(batch, k)`."""


class KVCache:
    """Keys and values of every attention, for one generation of one model.

    Each attention has one buffer with the rows of all image tokens, followed by those of the text. Attention reads the
    buffer as it is, so that filling it costs no more than the concatenation that it replaces. Keys are stored after
    their norm. Memory: `2 * layers * batch * (image + text tokens) * width` elements; cond and uncond are separate
    items of the batch.

    Attributes:
        filled: whether a dense forward has filled the cache, which a subset needs.
    """

    def __init__(self) -> None:
        self.filled = False
        self._shape: tuple[object, ...] = ()
        self._blocks = nn.ModuleList()

    def joint(self, layer: int) -> KeysValues:
        """Keys and values of the image and the text in a layer."""
        return self._blocks[layer].joint  # type: ignore[return-value]

    def image_only(self, layer: int) -> KeysValues:
        """Keys and values of a layer with a second, image-only attention."""
        return self._blocks[layer].image_only  # type: ignore[return-value]

    def allocate(self, transformer: SD3Transformer2DModel, latents: Tensor, context: Tensor) -> None:
        """Make room for the rows of these latents and prompt embeddings, unless there is."""
        config = transformer.config
        image = latents.shape[-2] * latents.shape[-1] // config.patch_size**2
        heads = (latents.shape[0], config.num_attention_heads)
        shape = (*heads, image, context.shape[1], latents.dtype, latents.device)
        if shape == self._shape:
            return

        def empty(rows: int) -> KeysValues:
            sizes = (*heads, rows, config.attention_head_dim)
            return latents.new_empty(sizes), latents.new_empty(sizes)

        self.filled, self._shape = False, shape
        self._blocks = nn.ModuleList(
            _CachedBlock(
                block, empty(image + context.shape[1]), empty(image) if n in config.dual_attention_layers else None
            )
            for n, block in enumerate(transformer.transformer_blocks)
        )

    @contextmanager
    def attached(self, transformer: SD3Transformer2DModel) -> Iterator[None]:
        """Pass the buffers to the blocks of a transformer while it is open."""
        blocks = transformer.transformer_blocks
        transformer.transformer_blocks = self._blocks
        try:
            yield
        finally:
            transformer.transformer_blocks = blocks


class _CachedBlock(nn.Module):
    """Stands for a block during a forward and adds the buffers of its attentions to the arguments.

    A transformer passes the same arguments to all of its blocks. Buffers that each block got as tensors need no names:
    so `torch.compile` makes one graph for all blocks of a kind.
    """

    def __init__(self, block: nn.Module, joint: KeysValues, image_only: KeysValues | None):
        super().__init__()
        self.block = block
        self.joint = joint
        self.image_only = image_only

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        buffers = {"joint": self.joint, "image_only": self.image_only}
        answer: tuple[Tensor, Tensor] = self.block(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            temb=temb,
            joint_attention_kwargs={**(joint_attention_kwargs or {}), **buffers},
        )
        return answer


class CachedJointAttention:
    """SD3's attention, joint (`attn`) or image-only (`attn2`), with keys and values of absent tokens from buffers.

    It has no state, so one serves all layers of all models.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        joint: KeysValues | None = None,
        image_only: KeysValues | None = None,
        rows: Rows | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend, and write fresh rows into the buffers.

        Args:
            attn: the layer.
            hidden_states: image rows `(batch, image tokens or k, width)`.
            encoder_hidden_states: text rows; None in an image-only attention. Without any row `(batch, 0, width)`,
                the text rows of the buffer stay as they are.
            attention_mask: unused, as in diffusers.
            joint: buffers of the attention to image and text; None attends to these rows alone.
            image_only: likewise of the image-only attention.
            rows: where the image rows belong; None for all of them.
        """
        query = _heads(attn, attn.to_q(hidden_states), attn.norm_q)
        key = _heads(attn, attn.to_k(hidden_states), attn.norm_k)
        value = _heads(attn, attn.to_v(hidden_states), None)
        buffers, text = image_only, None
        if encoder_hidden_states is not None:
            text_query = _heads(attn, attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)
            text_key = _heads(attn, attn.add_k_proj(encoder_hidden_states), attn.norm_added_k)
            text = (text_key, _heads(attn, attn.add_v_proj(encoder_hidden_states), None))
            query = torch.cat([query, text_query], dim=2)
            buffers = joint

        if buffers is not None:
            key, value = _write(buffers, (key, value), text, rows)
        elif text is not None:
            key, value = torch.cat([key, text[0]], dim=2), torch.cat([value, text[1]], dim=2)

        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).flatten(2)
        image = attn.to_out[1](attn.to_out[0](attended[:, : hidden_states.shape[1]]))
        if encoder_hidden_states is None:
            return image
        context = attended[:, hidden_states.shape[1] :]
        return image, context if attn.context_pre_only else attn.to_add_out(context)


def _write(buffers: KeysValues, fresh: KeysValues, text: KeysValues | None, rows: Rows | None) -> KeysValues:
    """Write fresh rows of image and text into the buffers, and return these."""
    for buffer, image, words in zip(buffers, fresh, text or (None, None), strict=True):
        if rows is None:
            buffer[:, :, : image.shape[2]] = image
        else:
            buffer[rows[0], :, rows[1]] = image.transpose(1, 2).to(buffer.dtype)
        if words is not None:
            buffer[:, :, buffer.shape[2] - words.shape[2] :] = words
    return buffers


def _heads(attn: Attention, rows: Tensor, norm: nn.Module | None) -> Tensor:
    """`(batch, n, heads * head_dim)` as `(batch, heads, n, head_dim)`, normed if there is a norm."""
    rows = rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return rows if norm is None else norm(rows)


@contextmanager
def cached_attention(transformer: SD3Transformer2DModel) -> Iterator[None]:
    """Install `CachedJointAttention` in every attention; restore the original ones on exit and on errors."""
    originals = dict(transformer.attn_processors)
    transformer.set_attn_processor(_PROCESSOR)
    try:
        yield
    finally:
        transformer.set_attn_processor(originals)


_PROCESSOR = CachedJointAttention()


def mmdit_forward(
    transformer: SD3Transformer2DModel,
    latents: Tensor,
    timestep: Tensor,
    context: Tensor,
    pooled: Tensor,
    tokens: Tensor | None = None,
    kv_cache: KVCache | None = None,
    skip_layers: Sequence[int] = (),
    lora_scale: float | None = None,
    text_kept: bool = False,
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
        skip_layers: numbers of the layers to leave out; those of all forwards of a cache are the same.
        lora_scale: weight of the LoRA adapters of the transformer; None for 1.
        text_kept: on a subset, whether to compute image rows alone and to attend to the text as the last dense forward
            left it.

    Raises:
        ValueError: for a subset without a filled cache, or for a cache outside of `cached_attention`.
    """
    if kv_cache is not None and not kv_cache.filled and _PROCESSOR not in transformer.attn_processors.values():
        raise ValueError("kv_cache: expected a call inside of cached_attention(transformer)")
    if tokens is not None and (kv_cache is None or not kv_cache.filled):
        raise ValueError("tokens: expected a K/V cache that a dense forward has filled, got none")
    patch_size = transformer.config.patch_size
    rows = None if tokens is None else (_batch_index(tokens), tokens)
    attention: dict[str, Any] = {} if rows is None else {"rows": rows}
    attention |= {} if lora_scale is None else {"scale": lora_scale}
    optional = {"skip_layers": list(skip_layers)} if skip_layers else {}
    with ExitStack() as stack:
        if kv_cache is not None:
            kv_cache.allocate(transformer, latents, context)
            stack.enter_context(kv_cache.attached(transformer))
        if rows is not None:
            image_tokens = (latents.shape[-2] // patch_size) * (latents.shape[-1] // patch_size)
            stack.enter_context(_subset(transformer, rows, image_tokens))
        velocity = transformer(
            hidden_states=latents,
            encoder_hidden_states=context[:, :0] if text_kept and rows is not None else context,
            pooled_projections=pooled,
            timestep=timestep,
            joint_attention_kwargs=attention or None,
            return_dict=False,
            **optional,
        )[0]
    if kv_cache is not None:
        kv_cache.filled = True
    rendered = patchify(velocity, patch_size)
    return rendered if rows is None else rendered[rows]


@contextmanager
def _subset(transformer: SD3Transformer2DModel, rows: Rows, image_tokens: int) -> Iterator[None]:
    """Restrict the blocks to these tokens while it is open; the output is zero at the others."""

    def gather(_module: nn.Module, _inputs: object, every: Tensor) -> Tensor:
        return every[rows]

    def scatter(_module: nn.Module, _inputs: object, rendered: Tensor) -> Tensor:
        zeros = rendered.new_zeros(rendered.shape[0], image_tokens, rendered.shape[2])
        return zeros.index_put_(rows, rendered)

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
        expected = (
            "pipe.compile() instead, which compiles the blocks: a recipe that renders some of the tokens needs it"
        )
        found.append(Problem(name, expected, "a compiled one"))
    return found

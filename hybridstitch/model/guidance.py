"""A transformer under classifier-free guidance: latents in, velocity of the tokens out."""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from hybridstitch.model.flops import forward_flops
from hybridstitch.model.mmdit import KVCache, mmdit_forward


class GuidedModel:
    """One transformer during one generation: its prompt, guidance, K/V cache, and a count of its work.

    Guidance is applied inside each model, before velocities of the two models meet. A cached one works inside
    `cached_attention(transformer)`.

    Args:
        transformer: the large or the small model.
        context: prompt embeddings `(batch, text tokens, width)`; with guidance `(2 * batch, …)`, uncond first, as
            diffusers stacks them.
        pooled: pooled prompt embeddings `(batch, width)`, stacked in the same way.
        guidance_scale: above 1, cond and uncond run in one forward; otherwise cond runs alone.
        cached: whether to keep keys and values, which calls with `tokens` need.

    Attributes:
        token_steps: image tokens rendered so far, per picture; cond and uncond of a token count once.
        flops: floating point operations so far, per picture; cond and uncond count both.
    """

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        context: Tensor,
        pooled: Tensor,
        guidance_scale: float,
        cached: bool,
    ):
        self.transformer = transformer
        self.patch_size: int = transformer.config.patch_size
        self.token_steps = 0
        self.flops = 0
        self.context = context
        self.pooled = pooled
        self._guidance_scale = guidance_scale
        self._branches = 2 if guidance_scale > 1 else 1
        self.cached = cached
        self._kv_cache = KVCache() if cached else None

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of image tokens in these latents."""
        return latents.shape[-2] // self.patch_size, latents.shape[-1] // self.patch_size

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Guided velocity `(batch, tokens or k, patch * patch * channels)`.

        Args:
            latents: `(batch, channels, height, width)`.
            timestep: a scalar tensor.
            tokens: indices `(batch, k)` of the image tokens, the same for cond and uncond; None for all.
        """
        inputs = torch.cat([latents] * self._branches)
        velocity = mmdit_forward(
            self.transformer,
            inputs,
            timestep.expand(inputs.shape[0]),
            self.context,
            self.pooled,
            None if tokens is None else torch.cat([tokens] * self._branches),
            self._kv_cache,
        )
        self._count(latents, velocity.shape[1], self._branches)
        if self._branches == 1:
            return velocity
        uncond, cond = velocity.chunk(2)
        return uncond + self._guidance_scale * (cond - uncond)

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Velocity of all image tokens for the prompt, without guidance: half the work, and not cached."""
        if self._branches == 1:
            return self(latents, timestep)
        rows = latents.shape[0]
        context, pooled = self.context[rows:], self.pooled[rows:]
        velocity = mmdit_forward(self.transformer, latents, timestep.expand(rows), context, pooled)
        self._count(latents, velocity.shape[1], 1)
        return velocity

    def release(self) -> None:
        """Drop the K/V cache, whose memory the decoder needs."""
        self._kv_cache = None

    def dense_flops(self, latents: Tensor) -> int:
        """Floating point operations of one call on all tokens, per picture."""
        rows, columns = self.grid(latents)
        return self._flops(rows * columns, rows * columns, self._branches)

    def _count(self, latents: Tensor, rendered: int, branches: int) -> None:
        rows, columns = self.grid(latents)
        self.token_steps += rendered
        self.flops += self._flops(rendered, rows * columns, branches)

    def _flops(self, rendered: int, image_tokens: int, branches: int) -> int:
        text_tokens = self.context.shape[1]
        return branches * forward_flops(self.transformer.config, rendered, image_tokens, text_tokens)

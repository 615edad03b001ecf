"""A transformer under classifier-free guidance, as the loop sees it: latents in, velocity of the tokens out."""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from hybridstitch.model.flops import forward_flops
from hybridstitch.model.mmdit import KVCache, mmdit_forward


class GuidedModel:
    """One transformer for one generation: its prompt, its guidance, its K/V cache, and a count of its work.

    Guidance is applied inside each model, before velocities of two models meet. If `cached`, use it inside
    `cached_attention(transformer)`.

    context, pooled: prompt embeddings `(batch, text tokens, width)` and `(batch, width)`; with guidance the
        negative half first, as diffusers stacks them.
    guidance_scale: above 1 both halves run, in one forward; otherwise there is no negative half.
    cached: keep keys and values, so that calls with `tokens` are possible.

    token_steps: image tokens rendered so far, per picture (one half counts as much as both).
    flops: floating point operations so far, per picture (each half counts).
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
        self._halves = 2 if guidance_scale > 1 else 1
        self.cached = cached
        self._kv_cache = KVCache() if cached else None

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of image tokens in these latents."""
        return latents.shape[-2] // self.patch_size, latents.shape[-1] // self.patch_size

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Guided velocity of all image tokens, or of those at `tokens` `(batch, k)`, the same for both halves.

        Returns `(batch, tokens or k, patch * patch * channels)`.
        """
        both = torch.cat([latents] * self._halves)
        velocity = mmdit_forward(
            self.transformer,
            both,
            timestep.expand(both.shape[0]),
            self.context,
            self.pooled,
            None if tokens is None else torch.cat([tokens] * self._halves),
            self._kv_cache,
        )
        self._count(latents, velocity.shape[1], self._halves)
        if self._halves == 1:
            return velocity
        negative, positive = velocity.chunk(2)
        return negative + self._guidance_scale * (positive - negative)

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Velocity of all image tokens for the prompt alone, without guidance: half the work, and not cached."""
        if self._halves == 1:
            return self(latents, timestep)
        rows = latents.shape[0]
        context, pooled = self.context[rows:], self.pooled[rows:]
        velocity = mmdit_forward(self.transformer, latents, timestep.expand(rows), context, pooled)
        self._count(latents, velocity.shape[1], 1)
        return velocity

    def release(self) -> None:
        """Drop the K/V cache: decoding the picture needs the memory."""
        self._kv_cache = None

    def dense_flops(self, latents: Tensor) -> int:
        """Floating point operations of one call on all tokens, per picture."""
        rows, columns = self.grid(latents)
        return self._flops(rows * columns, rows * columns, self._halves)

    def _count(self, latents: Tensor, rendered: int, halves: int) -> None:
        rows, columns = self.grid(latents)
        self.token_steps += rendered
        self.flops += self._flops(rendered, rows * columns, halves)

    def _flops(self, rendered: int, image_tokens: int, halves: int) -> int:
        text_tokens = self.context.shape[1]
        return halves * forward_flops(self.transformer.config, rendered, image_tokens, text_tokens)

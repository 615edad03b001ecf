"""A transformer under classifier-free guidance: latents in, velocity of the tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from hybridstitch.model.flops import forward_flops
from hybridstitch.model.mmdit import KVCache, gather_rows, mmdit_forward
from hybridstitch.model.skip_layers import SkipLayers


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
        skip: layers for skip-layer guidance; it needs guidance, and then a separate cache.
        timesteps: of all steps, which `skip` selects from.
        lora_scale: weight of the transformer's LoRA adapters; None for 1.
        text_kept: whether calls with `tokens` keep the text rows of the last dense forward.

    Attributes:
        guidance_scale: as given.
        token_steps: image tokens rendered so far, per picture; cond and uncond of a token count once.
        flops: floating point operations so far, per picture; cond, uncond and a forward without layers all count.
    """

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        context: Tensor,
        pooled: Tensor,
        guidance_scale: float,
        cached: bool,
        skip: SkipLayers | None = None,
        timesteps: Tensor | None = None,
        lora_scale: float | None = None,
        text_kept: bool = False,
    ):
        self.transformer = transformer
        self.patch_size: int = transformer.config.patch_size
        self.token_steps = 0
        self.flops = 0
        self.context = context
        self.pooled = pooled
        self.guidance_scale = guidance_scale
        self._branches = 2 if guidance_scale > 1 else 1
        self.cached = cached
        self._kv_cache = KVCache() if cached else None
        self._skip = skip if skip and skip.layers and guidance_scale > 1 else None
        at = timesteps.tolist() if self._skip and timesteps is not None else []
        self._skip_at = {at[step] for step in self._skip.steps(len(at))} if self._skip else set()
        self._skip_cache = KVCache() if cached and self._skip else None
        self._lora_scale = lora_scale
        self._text_kept = text_kept

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of image tokens in these latents."""
        return latents.shape[-2] // self.patch_size, latents.shape[-1] // self.patch_size

    def prepare(self, latents: Tensor, timestep: Tensor) -> None:
        """Announce a call with these inputs; see `PlacedModel`."""

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
            lora_scale=self._lora_scale,
            text_kept=self._text_kept,
        )
        self._count(latents, velocity.shape[1], self._branches, tokens)
        if self._branches == 1:
            return velocity
        uncond, cond = velocity.chunk(2)
        guided = uncond + self.guidance_scale * (cond - uncond)
        if self._skip is None or float(timestep) not in self._skip_at:
            return guided
        return guided + (cond - self._without_layers(self._skip, latents, timestep, tokens)) * self._skip.scale

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Velocity of all image tokens for the prompt, without guidance: half the work, and not cached."""
        if self._branches == 1:
            return self(latents, timestep)
        rows = latents.shape[0]
        context, pooled = self.context[rows:], self.pooled[rows:]
        velocity = mmdit_forward(
            self.transformer, latents, timestep.expand(rows), context, pooled, lora_scale=self._lora_scale
        )
        self._count(latents, velocity.shape[1], 1)
        return velocity

    def _without_layers(self, skip: SkipLayers, latents: Tensor, timestep: Tensor, tokens: Tensor | None) -> Tensor:
        """Velocity of the tokens for the prompt without some layers.

        It has its own keys and values. The first forward of a window runs on all tokens, to fill them.
        """
        cache, rows = self._skip_cache, latents.shape[0]
        subset = tokens if cache is not None and cache.filled else None
        velocity = mmdit_forward(
            self.transformer, latents, timestep.expand(rows), self.context[rows:], self.pooled[rows:], subset, cache,
            skip.layers, self._lora_scale, self._text_kept,
        )  # fmt: skip
        self.flops += self._flops(latents, velocity.shape[1], 1, skip.layers, subset)
        return velocity if tokens is None or subset is not None else gather_rows(velocity, tokens)

    def release(self) -> None:
        """Drop the K/V caches, whose memory the decoder needs."""
        self._kv_cache = self._skip_cache = None

    def dense_flops(self, latents: Tensor, steps: int) -> int:
        """Floating point operations of this many steps on all tokens, per picture."""
        rows, columns = self.grid(latents)
        flops = steps * self._flops(latents, rows * columns, self._branches)
        if self._skip is not None:
            flops += len(self._skip.steps(steps)) * self._flops(latents, rows * columns, 1, self._skip.layers)
        return flops

    def _count(self, latents: Tensor, rendered: int, branches: int, tokens: Tensor | None = None) -> None:
        self.token_steps += rendered
        self.flops += self._flops(latents, rendered, branches, (), tokens)

    def _flops(
        self,
        latents: Tensor,
        rendered: int,
        branches: int,
        skipped: Sequence[int] = (),
        tokens: Tensor | None = None,
    ) -> int:
        rows, columns = self.grid(latents)
        text_tokens = self.context.shape[1]
        words = 0 if self._text_kept and tokens is not None else text_tokens
        return branches * forward_flops(self.transformer.config, rendered, rows * columns, text_tokens, skipped, words)

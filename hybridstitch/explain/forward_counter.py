"""Models that count their forwards, so that an explanation can report them and be ended at any of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from hybridstitch.model.placement import PlacedModel


class ForwardCounter:
    """Counts forwards. `check` is called at each; an exception in it ends the explanation."""

    def __init__(self, check: Callable[[], None] | None):
        self.forwards = 0
        self._check = check

    def check(self) -> None:
        """Call the caller's check, which may raise."""
        if self._check is not None:
            self._check()

    def count(self, forwards: int) -> None:
        """Add forwards, before they run."""
        self.forwards += forwards
        self.check()


class CountedModel(PlacedModel):
    """A guided model with a counter and without a K/V cache: it renders all tokens, and has gradients.

    Args:
        device: where the transformer computes.
        transformer, context, pooled, guidance_scale: see `GuidedModel`.
        counter: counts its forwards.
        lora_scale: see `GuidedModel`.
    """

    def __init__(
        self,
        device: torch.device,
        transformer: SD3Transformer2DModel,
        context: Tensor,
        pooled: Tensor,
        guidance_scale: float,
        counter: ForwardCounter,
        lora_scale: float | None,
    ):
        super().__init__(device, transformer, context, pooled, guidance_scale, False, None, None, lora_scale)
        self._counter = counter

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        # Counted first: a forward that checkpointing repeats for its gradients may end early.
        self._counter.count(latents.shape[0] * self._branches)
        return super().__call__(latents, timestep, tokens)

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        if self._branches > 1:  # otherwise it is the call above
            self._counter.count(latents.shape[0])
        return super().conditional(latents, timestep)

"""A model on another device than the latents, so that both models can compute at the same time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hybridstitch.model.guidance import GuidedModel


class PlacedModel(GuidedModel):
    """A guided model that moves its inputs to its device, and its velocities back to that of the latents.

    A copy between GPUs waits for what both have queued before it. So the loop calls `prepare` before it starts the
    large model on the first GPU: the inputs are then on the second one, and its work does not wait for the first.

    Args:
        device: of the transformer.
        given: arguments of `GuidedModel`.
    """

    def __init__(self, device: torch.device, *given: Any):
        super().__init__(*given)
        self._device = device
        self._prepared: tuple[Tensor, Tensor, Tensor] | None = None

    def prepare(self, latents: Tensor, timestep: Tensor) -> None:
        self._prepared = (latents, *self._moved(latents, timestep))

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        there = None if tokens is None else tokens.to(self._device, non_blocking=True)
        return super().__call__(*self._inputs(latents, timestep), there).to(latents.device, non_blocking=True)

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        velocity = super().conditional(*self._inputs(latents, timestep))
        return velocity.to(latents.device, non_blocking=True)

    def release(self) -> None:
        super().release()
        self._prepared = None

    def _inputs(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and timestep on the device: the prepared ones, if they are of these latents."""
        if self._prepared is not None and self._prepared[0] is latents:
            return self._prepared[1], self._prepared[2]
        return self._moved(latents, timestep)

    def _moved(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        # A callback may have replaced the embeddings since the last step.
        self.context, self.pooled = (each.to(self._device, non_blocking=True) for each in (self.context, self.pooled))
        return latents.to(self._device, non_blocking=True), timestep.to(self._device, non_blocking=True)

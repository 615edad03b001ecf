"""The models as an explanation asks them: every forward is counted, and may be the last one."""

from __future__ import annotations

from collections.abc import Callable

from diffusers import SD3Transformer2DModel
from torch import Tensor

from hybridstitch.model.guidance import GuidedModel


class ForwardCounter:
    """Counts forwards. `check` is called at each; an exception in it ends the explanation."""

    def __init__(self, check: Callable[[], None] | None):
        self.forwards = 0
        self._check = check

    def check(self) -> None:
        """Let the caller give up."""
        if self._check is not None:
            self._check()

    def count(self, forwards: int) -> None:
        """So many more."""
        self.forwards += forwards
        self.check()


class CountedModel(GuidedModel):
    """A `GuidedModel` on a meter, without a K/V cache: it is asked about all tokens only, and may be differentiated."""

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        context: Tensor,
        pooled: Tensor,
        guidance_scale: float,
        counter: ForwardCounter,
    ):
        super().__init__(transformer, context, pooled, guidance_scale, cached=False)
        self._counter = counter

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        # Counted before it is done: a forward that is repeated for its gradients may end early.
        self._counter.count(latents.shape[0] * self._branches)
        return super().__call__(latents, timestep, tokens)

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        if self._branches > 1:  # otherwise it is the call above
            self._counter.count(latents.shape[0])
        return super().conditional(latents, timestep)

"""Skip-layer guidance: away from the velocity that a model predicts without some of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SkipLayers:
    """The layers that one model leaves out in a further forward, as `StableDiffusion3Pipeline` does.

    At the steps of the window, `scale * (cond - cond without the layers)` is added to the guided velocity.

    Attributes:
        layers: numbers of the layers, from 0.
        scale: weight of the difference. Higher follows the prompt more closely, and distorts more.
        start: share of the steps before the window, 0 to 1.
        stop: share of the steps at its end. More steps cost half a guided forward each.
    """

    layers: tuple[int, ...]
    scale: float = 2.8
    start: float = 0.01
    stop: float = 0.2

    def steps(self, count: int) -> list[int]:
        """The steps of the window in a schedule of `count` steps."""
        return [index for index in range(count) if count * self.start < index < count * self.stop]

    def to_dict(self) -> dict[str, Any]:
        """The attributes as JSON."""
        return vars(self) | {"layers": list(self.layers)}

"""The request that proves that a worker answers: it uses every model."""

from __future__ import annotations

from typing import Any

BOTH_MODELS = {"plan": {"type": "listed", "shares": [1, 0]}, "fill": {"type": "small"}}
"""A recipe for two steps: the large model renders the first one and the small model the second one."""


def smallest_request(side: int, recipes: bool) -> dict[str, Any]:
    """The cheapest request that uses every model.

    Args:
        side: The least width and height that the models can generate, in pixels.
        recipes: Whether the endpoint accepts recipes, and so has two models.
    """
    size = {"width": side, "height": side}
    request = {"prompt": "x", "seed": 0, "num_inference_steps": 2, **size}
    return request | ({"recipe": BOTH_MODELS} if recipes else {})

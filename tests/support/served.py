"""Requests and clients of the server that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybridstitch.serving.client.client import Client
from hybridstitch.serving.client.replies import Result

QUICK: dict[str, Any] = {"prompt": "red apple on blue", "seed": 7, "num_inference_steps": 2}
Connect = Callable[..., Client]


def encoded(result: Result) -> list[bytes]:
    """The files of all pictures, in the order of their seeds."""
    return [result.image_bytes, *result.other_bytes]

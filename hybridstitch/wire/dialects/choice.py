"""Chooses the dialect of a request: by the path below the endpoint, or by the shape of the body."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hybridstitch.wire.dialects.dialect import Dialect
from hybridstitch.wire.dialects.kserve_v1 import INSTANCES, KServeV1
from hybridstitch.wire.dialects.kserve_v2 import INPUTS, KServeV2
from hybridstitch.wire.dialects.openai import PATH, OpenAIImages
from hybridstitch.wire.dialects.own import Own
from hybridstitch.wire.failures import UnknownPath


@dataclass(frozen=True)
class Dialects:
    """The dialects of an endpoint."""

    openai: OpenAIImages
    kserve_v2: KServeV2
    kserve_v1: KServeV1 = field(default_factory=KServeV1)
    own: Own = field(default_factory=Own)

    def at(self, path: str) -> Dialect:
        """Return the dialect of a path, in which also an error of its body is written.

        Args:
            path: What follows the address of the endpoint; empty for the address itself.
        """
        return self.openai if path.startswith("v1/") else self.own

    def check(self, path: str, is_explanation: bool = False) -> None:
        """Raise UnknownPath for a path that no dialect has. Explanations have no paths."""
        known = ("",) if is_explanation else ("", PATH)
        if path not in known:
            expected = "no path behind the endpoint" if is_explanation else f"no path behind the endpoint, or {PATH}"
            raise UnknownPath(f"path: expected {expected}, got {path[:80]!r}")

    def of(self, path: str, payload: Any, is_explanation: bool = False) -> Dialect:
        """Return the dialect of a decoded body.

        Args:
            path: A path that `check` accepts.
            payload: The decoded body.
            is_explanation: Whether it came to the address of explanations, which have the own dialect alone.
        """
        if path or is_explanation or not isinstance(payload, dict):
            return self.at(path)
        if INSTANCES in payload:
            return self.kserve_v1
        return self.kserve_v2 if INPUTS in payload else self.own

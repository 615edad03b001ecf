"""The token of one address, and where it comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.answers import INVALID_KEY, ServiceError

VARIABLES = {"inference": "HYBRIDSTITCH_TOKEN", "management": "HYBRIDSTITCH_MANAGEMENT_TOKEN"}
KEY_FILE_VARIABLE = "HYBRIDSTITCH_KEY_FILE"

Answer = TypeVar("Answer")


class Token:
    """The token given, else that of the environment, else that of the key file; None for a server without tokens.

    kind: "inference" or "management".
    key_file: the server's key_file.json; None: the one that HYBRIDSTITCH_KEY_FILE names, if any.
    Raises InvalidInput if the key file is needed and cannot be read.
    """

    def __init__(self, kind: str, given: str | None = None, key_file: str | Path | None = None):
        self._kind = kind
        self._value = given or os.environ.get(VARIABLES[kind])
        self._key_file = None if self._value else key_file or os.environ.get(KEY_FILE_VARIABLE)
        if self._key_file:
            self._value = self._read(self._key_file)

    def use(self, send: Callable[[str | None], Answer]) -> Answer:
        """`send` with the token; if the server refuses it and the key file holds another by now, again with that."""
        value = self._value
        try:
            return send(value)
        except ServiceError as error:
            fresh = self._renewed() if error.kind == INVALID_KEY else None
            if fresh is None or fresh == value:
                raise
            self._value = fresh
            return send(fresh)

    def _renewed(self) -> str | None:
        try:
            return self._read(self._key_file) if self._key_file else None
        except InvalidInput:  # the server may just be writing it; its refusal says more than this
            return None

    def _read(self, path: str | Path) -> str:
        try:
            return str(json.loads(Path(path).read_text())[self._kind]["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            expected = f"a server's key_file.json with the key {self._kind!r}"
            raise InvalidInput([Problem("key_file", expected, str(path))]) from error

"""Credentials: where they come from, and the one way to read them. No message of this module shows one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.client.replies import INVALID_KEY, ServiceError

VARIABLES = {"inference": "HYBRIDSTITCH_TOKEN", "management": "HYBRIDSTITCH_MANAGEMENT_TOKEN"}
KEY_FILE_VARIABLE = "HYBRIDSTITCH_KEY_FILE"
TRIES = 5
TRY_SECONDS = 0.1
"""TorchServe writes its key file in place: a reader that comes in between finds part of it, and tries again."""
LONGEST_PATH = 300
"""Characters of a path that a message shows."""

Answer = TypeVar("Answer")


class Token:
    """The credential of one address, and where a newer one is found.

    Args:
        kind: "inference" or "management".
        given: the token itself; None or "": that of the key file.
        key_file: the server's key_file.json; None: the token in the environment, else that of the file that
            HYBRIDSTITCH_KEY_FILE names, else none.
        environment: whether the variables of the environment count.

    Raises:
        InvalidInput: if the token cannot be one, or if the key file is needed and cannot be read.
    """

    def __init__(
        self,
        kind: str,
        given: str | None = None,
        key_file: str | Path | None = None,
        *,
        environment: bool = True,
    ):
        self._kind = kind
        field = "token" if kind == "inference" else f"{kind}_token"
        self._value = clean_token(field, given) if given is not None and given != "" else None
        self._key_file, source = None if self._value else key_file, "key_file"
        if environment and not (self._value or self._key_file):
            self._value, source = token_in(VARIABLES[kind]), KEY_FILE_VARIABLE
            self._key_file = None if self._value else os.environ.get(KEY_FILE_VARIABLE) or None
        if self._key_file:
            self._value = read_key_file(self._key_file, kind, field=source)[kind]

    def use(self, send: Callable[[str | None], Answer]) -> Answer:
        """`send` with the token; if the server refuses it and the key file holds another by now, again with that.

        Raises ServiceError for a refused token, with what to do about it behind the server's own words.
        """
        value = self._value
        try:
            return send(value)
        except ServiceError as error:
            if error.kind != INVALID_KEY:
                raise
            refused = error
        fresh = self._renewed()
        if fresh is None or fresh == value:
            words = f"{refused.message}; {self._advice(value)}"
            raise ServiceError(refused.status, refused.kind, words, refused.problems)
        self._value = fresh
        return send(fresh)

    def _advice(self, value: str | None) -> str:
        if value is None:
            return (
                "no token was sent: give the server's key_file.json, in Python as key_file= and to a command as "
                f"--key-file, or set {VARIABLES[self._kind]}"
            )
        source = f"of {shown_path(self._key_file)}" if self._key_file else "given"
        return f"the {self._kind} token {source} is not, or no longer, the one of this address"

    def _renewed(self) -> str | None:
        try:
            return read_key_file(self._key_file, self._kind)[self._kind] if self._key_file else None
        except InvalidInput:  # the server's refusal says more than this
            return None


def clean_token(field: str, text: object) -> str:
    """A token without the white space around it, such as the line end of a secret file.

    field: what the message calls it. Raises InvalidInput, without showing it, for what no header can carry.
    """
    expected = "a token: visible ASCII characters without spaces, not the word Bearer"
    if not isinstance(text, str):
        raise InvalidInput([Problem(field, expected, f"{type(text).__name__}, not shown")])
    token = text.strip()
    if not token:
        raise InvalidInput([Problem(field, expected, "nothing but white space")])
    if not all("!" <= character <= "~" for character in token):
        raise InvalidInput([Problem(field, expected, "other characters, not shown")])
    return token


def token_in(variable: str) -> str | None:
    """The token in a variable of the environment; None if it is not set or empty."""
    text = os.environ.get(variable)
    return clean_token(variable, text) if text else None


def read_key_file(path: str | Path, *kinds: str, field: str = "key_file") -> dict[str, str]:
    """The tokens of these kinds ("inference", "management", "API") in a server's key_file.json.

    field: what the message calls the file. Raises InvalidInput, which shows nothing of the file's content.
    """
    keys, problem = read_keys(path)
    if problem:
        raise InvalidInput([Problem(field, f"a server's key_file.json; {problem}", shown_path(path))])
    found = {}
    for kind in kinds:
        entry = keys.get(kind)
        if not isinstance(entry, dict) or "key" not in entry:
            expected = f"a server's key_file.json with the key {kind!r}"
            raise InvalidInput([Problem(field, expected, shown_path(path))])
        found[kind] = clean_token(field, entry["key"])
    return found


def read_keys(path: str | Path, tries: int = TRIES) -> tuple[dict[str, Any], str]:
    """The object in a key file and "", or an empty object and what is wrong with the file."""
    problem = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(TRY_SECONDS)
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError) as error:
            return {}, (getattr(error, "strerror", None) or "no such path").lower()
        try:
            keys = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            problem = "it is not whole JSON"
            continue
        return (keys, "") if isinstance(keys, dict) else ({}, "it is not a JSON object")
    return {}, problem


def without(token: str | None, words: bytes) -> bytes:
    """What a server said, without the token that it may repeat."""
    return words.replace(token.encode(), b"[token]") if token else words


def shown_path(path: object) -> str:
    """A path for a message; a text that can be no path may be the secret itself, and is not shown."""
    text = str(path)
    is_path = text.isprintable() and len(text) <= LONGEST_PATH and not set(text) & set('{}"')
    return text if is_path else "a text that is no path, not shown"

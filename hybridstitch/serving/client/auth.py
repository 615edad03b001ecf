"""The credentials of a server: where they come from and how they are read. No message of this module shows one."""

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
"""TorchServe writes its key file in place: a reader may find a part of it, and then tries again."""
LONGEST_PATH = 300
"""Characters of a path that a message shows."""

Sent = TypeVar("Sent")


class Credential:
    """The token of one address, and where a newer one is found.

    Args:
        kind: "inference" or "management".
        token: The token itself. None or "": the token of the key file.
        key_file: The server's key_file.json. None: the token in the environment, else the token of the file that
            HYBRIDSTITCH_KEY_FILE names, else none.
        environment: Whether the variables of the environment count.

    Raises:
        InvalidInput: For a text that can be no token, and for a key file that is needed and cannot be read.
    """

    def __init__(
        self,
        kind: str,
        token: str | None = None,
        key_file: str | Path | None = None,
        *,
        environment: bool = True,
    ):
        self._kind = kind
        field = "token" if kind == "inference" else f"{kind}_token"
        self._token = clean_token(field, token) if token is not None and token != "" else None
        self._key_file, source = None if self._token else key_file, "key_file"
        if environment and not (self._token or self._key_file):
            self._token, source = read_credential(kind, VARIABLES[kind]), KEY_FILE_VARIABLE
            self._key_file = None if self._token else os.environ.get(KEY_FILE_VARIABLE) or None
        if self._key_file:
            self._token = read_key_file(self._key_file, kind, field=source)[kind]

    def use(self, send: Callable[[str | None], Sent]) -> Sent:
        """Call `send` with the token and return its result.

        If the server refuses the token and the key file holds another one by now, `send` is called once more with that.

        Raises:
            ServiceError: For a refused token. It adds what to do about it to the server's own words.
        """
        token = self._token
        try:
            return send(token)
        except ServiceError as error:
            if error.kind != INVALID_KEY:
                raise
            refused = error
        fresh = self._renewed()
        if fresh is None or fresh == token:
            words = f"{refused.message}; {self._advice(token)}"
            raise ServiceError(refused.status, refused.kind, words, refused.problems)
        self._token = fresh
        return send(fresh)

    def _advice(self, token: str | None) -> str:
        if token is None:
            return (
                "no token was sent: give the server's key_file.json, in Python as key_file= and to a command as "
                f"--key-file, or set {VARIABLES[self._kind]}"
            )
        source = f"of {shown_path(self._key_file)}" if self._key_file else "given"
        return f"the {self._kind} token {source} is not, or no longer, the one of this address"

    def _renewed(self) -> str | None:
        try:
            return read_key_file(self._key_file, self._kind)[self._kind] if self._key_file else None
        except InvalidInput:  # the server's refusal is the better message
            return None


def read_credential(
    kind: str, variable: str, key_file: str | Path | None = None, *, field: str = "key_file"
) -> str | None:
    """The token of a key file, else the token in a variable of the environment, else None.

    Args:
        kind: "inference", "management" or "API".
        variable: Name of the variable, which counts where no key file is given.
        key_file: A server's key_file.json.
        field: Name of the key file in messages.

    Raises:
        InvalidInput: As `read_key_file` and `clean_token`.
    """
    if key_file is not None:
        return read_key_file(key_file, kind, field=field)[kind]
    text = os.environ.get(variable)
    return clean_token(variable, text) if text else None


def clean_token(field: str, text: object) -> str:
    """A token without the white space around it, such as the line end of a secret file.

    Args:
        field: Name of the token in messages.
        text: What was given as a token.

    Raises:
        InvalidInput: For a text that no header can carry. The message does not show it.
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


def read_key_file(path: str | Path, *kinds: str, field: str = "key_file") -> dict[str, str]:
    """The tokens in a server's key_file.json, by kind.

    Args:
        path: The file.
        kinds: The wanted ones of "inference", "management" and "API".
        field: Name of the file in messages.

    Raises:
        InvalidInput: For a file that cannot be read or lacks a token. The message shows nothing of its content.
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
    """The JSON object of a key file and ""; or an empty object and what is wrong with the file.

    Args:
        path: The file.
        tries: How often to read a file that is not whole JSON, `TRY_SECONDS` apart.
    """
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
    """The words of a server, with a mark in place of a token that it repeats."""
    return words.replace(token.encode(), b"[token]") if token else words


def shown_path(path: object) -> str:
    """A path for a message. A text that can be no path is not shown: it may be the token itself."""
    text = str(path)
    is_path = text.isprintable() and len(text) <= LONGEST_PATH and not set(text) & set('{}"')
    return text if is_path else "a text that is no path, not shown"

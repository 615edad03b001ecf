"""Keeps a server's tokens in a file that the operator names, and renews them before they expire.

TorchServe writes its own key file into a new folder at every start and renews no token.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self, TextIO

import requests

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.client.auth import read_key_file, read_keys, shown_path
from hybridstitch.serving.server.server import Server

LOOK_SECONDS = 1.0
RENEW_SHARE = 0.1
"""The share of a token's life that is left when it is renewed. A fixed time could exceed a short life."""
KINDS = ("inference", "management")
ENDS = "expiration time"

logger = logging.getLogger(__name__)


class KeptKeyFile:
    """Keeps a copy of the server's key file, readable by this user only, and renews tokens that expire soon.

    Use it as a context manager inside the server's. At its end the copy is removed. If either file is lost or
    overwritten, it is written again from memory. A renewed token replaces the old one at once, so clients must read
    the file again when a token is refused; `hybridstitch.Client` does.

    Args:
        server: A running server with tokens.
        path: Where the copy lies.
    """

    def __init__(self, server: Server, path: Path):
        self._server = server
        self._path = path
        self._keys: dict[str, Any] = {}
        self._lives: dict[str, tuple[str, timedelta]] = {}
        self._said = ""
        self._left = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Write the file.

        Raises:
            OSError: If it cannot be written.
            InvalidInput: Without the server's own file, and if another server keeps its tokens at the same path.
        """
        read_key_file(self._server.key_file, *KINDS, "API")
        self._claim = claimed(self._path)
        try:
            self.look(datetime.now(UTC))
        except BaseException:
            give_up(self._claim)
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        give_up(self._claim)

    def look(self, now: datetime) -> None:
        """Renew the tokens that expire soon after `now`, and write the files again that were lost."""
        self._read_server_file()
        if due := [kind for kind in KINDS if self._is_due(kind, now)]:
            for kind in due:
                headers = {"Authorization": f"Bearer {self._keys['API']['key']}"}
                url = f"{self._server.management_url}/token"
                requests.get(url, {"type": kind}, headers=headers, timeout=30).raise_for_status()
            self._read_server_file()
            for kind in due:
                self._is_due(kind, now)  # a new life begins
        if read_keys(self._path, tries=1)[0] != self._keys:
            write_private(self._path, self._keys)

    def _watch(self) -> None:
        while not self._left.wait(LOOK_SECONDS):
            said = ""
            try:
                self.look(datetime.now(UTC))
            except (OSError, ValueError, KeyError, TypeError, requests.RequestException) as error:
                said = f"tokens are not kept at {shown_path(self._path)}: {error}"
            if said and said != self._said:  # a repeated failure is reported once
                logger.warning("%s", said)
            self._said = said

    def _read_server_file(self) -> None:
        """Read the server's file. If it is lost or broken, write it again from memory."""
        keys, problem = read_keys(self._server.key_file)
        if not problem and all(isinstance(keys.get(kind), dict) and "key" in keys[kind] for kind in (*KINDS, "API")):
            self._keys = keys
        elif self._keys:
            logger.warning("the server's key file was lost and is written again: %s", problem or "keys are missing")
            write_private(self._server.key_file, self._keys)
        else:
            expected = "the server's key_file.json with its three keys"
            raise InvalidInput([Problem("key_file", expected, shown_path(self._server.key_file))])

    def _is_due(self, kind: str, now: datetime) -> bool:
        """Whether less than `RENEW_SHARE` of a token's life is left."""
        ends = self._keys[kind][ENDS]
        left = datetime.fromisoformat(ends) - now
        if self._lives.get(kind, ("",))[0] != ends:
            self._lives[kind] = (ends, left)
        return left < RENEW_SHARE * self._lives[kind][1]


def claimed(path: Path) -> TextIO:
    """A locked file beside the path of a key file, for `give_up`. The lock ends with the process, however it ends.

    Raises:
        InvalidInput: If another server keeps its tokens there.
    """
    claim = path.with_name(f".{path.name}.lock").open("w")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.close()
        expected = "a path that no other server keeps its tokens in"
        raise InvalidInput([Problem("key_file", expected, shown_path(path))]) from None
    return claim


def give_up(claim: TextIO) -> None:
    """Release what `claimed` returned."""
    with suppress(FileNotFoundError):
        os.unlink(claim.name)
    claim.close()


def write_private(path: Path, keys: dict[str, Any]) -> None:
    """Write a key file in one step, readable by this user only."""
    fresh = path.with_name(f".{path.name}.fresh")
    with suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(keys, file, indent=2)
    fresh.replace(path)

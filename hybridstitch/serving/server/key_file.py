"""A server's tokens at a path that the operator chooses, renewed before they end.

TorchServe's own key file lies in a new folder after every start, and nothing renews its tokens.
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
"""Tokens are renewed when this share of their life is left: a fixed time would be longer than a short life."""
KINDS = ("inference", "management")
ENDS = "expiration time"

logger = logging.getLogger(__name__)


class KeptKeyFile:
    """Keeps `path` equal to the server's key file, readable by this user only, and renews tokens about to end.

    Use it as a context manager inside the server's; leaving it removes the file. Either file is written again if it is
    lost or overwritten: the keys are in memory, too. A renewed token replaces the old one at once: clients read the
    file again when theirs is refused, as `hybridstitch.Client` does with a key file.
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

        Raises OSError where that is not possible, InvalidInput without the server's own file, or if another server
        keeps its tokens at the same path: each would overwrite those of the other.
        """
        read_key_file(self._server.key_file, *KINDS, "API")
        self._claim = _claimed(self._path)
        try:
            self.look(datetime.now(UTC))
        except BaseException:
            _give_up(self._claim)
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        _give_up(self._claim)

    def look(self, now: datetime) -> None:
        """Renew what ends soon as of `now`, and write again what is not on the disk."""
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
            if said and said != self._said:  # the next look will do, or says the same
                logger.warning("%s", said)
            self._said = said

    def _read_server_file(self) -> None:
        """Take the server's file into memory; what is in memory replaces a file that is gone or broken."""
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
        """Whether so little is left of a token's life that a new one is due."""
        ends = self._keys[kind][ENDS]
        left = datetime.fromisoformat(ends) - now
        if self._lives.get(kind, ("",))[0] != ends:
            self._lives[kind] = (ends, left)
        return left < RENEW_SHARE * self._lives[kind][1]


def _claimed(path: Path) -> TextIO:
    """A locked file beside a path. The end of the process, however it comes, gives up the claim."""
    claim = path.with_name(f".{path.name}.lock").open("w")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        claim.close()
        expected = "a path of its own: another server keeps its tokens there"
        raise InvalidInput([Problem("key_file", expected, shown_path(path))]) from None
    return claim


def _give_up(claim: TextIO) -> None:
    with suppress(FileNotFoundError):
        os.unlink(claim.name)
    claim.close()


def write_private(path: Path, keys: dict[str, Any]) -> None:
    """Write a key file, whole at once and readable by this user only."""
    fresh = path.with_name(f".{path.name}.fresh")
    with suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(keys, file, indent=2)
    fresh.replace(path)

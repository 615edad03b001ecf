"""A server's tokens at a path of one's own, renewed before they end: TorchServe's own file moves with every start."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import requests

from hybridstitch.serving.server import Server

LOOK_SECONDS = 1.0
RENEW_BEFORE = timedelta(minutes=10)
KINDS = ("inference", "management")

logger = logging.getLogger(__name__)


class KeptTokens:
    """Keeps `path` equal to the server's key file, readable by this user only, and renews tokens about to end.

    Use it as a context manager inside the server's; leaving it removes the file. A renewed token replaces the old one
    at once: clients read the file again when theirs is refused, as `hybridstitch.Client` does with a key file.
    """

    def __init__(self, server: Server, path: Path):
        self._server = server
        self._path = path
        self._kept = ""
        self._left = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Write the file. Raises OSError where that is not possible."""
        self._keep()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._left.wait(LOOK_SECONDS):
            try:
                self._renew(datetime.now(UTC))
                self._keep()
            except (OSError, ValueError, KeyError, requests.RequestException) as error:
                logger.warning("tokens: %s", error)  # the server may be writing its file: the next look will do

    def _renew(self, now: datetime) -> None:
        """New tokens for those that end soon, by the server's API key; the server writes them into its file."""
        keys: dict[str, Any] = json.loads(self._server.key_file.read_text())
        for kind in KINDS:
            if datetime.fromisoformat(keys[kind]["expiration time"]) - now < RENEW_BEFORE:
                headers = {"Authorization": f"Bearer {keys['API']['key']}"}
                url = f"{self._server.management_url}/token"
                requests.get(url, {"type": kind}, headers=headers, timeout=30).raise_for_status()

    def _keep(self) -> None:
        tokens = self._server.key_file.read_text()
        json.loads(tokens)
        if tokens == self._kept:
            return
        fresh = self._path.with_name(f".{self._path.name}.fresh")
        with suppress(FileNotFoundError):
            fresh.unlink()
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(tokens)
        fresh.replace(self._path)
        self._kept = tokens

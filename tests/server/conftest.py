"""One real TorchServe for all tests of this folder, with both endpoints on the embedded pair."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.serving.archive import pack
from hybridstitch.serving.client import Client
from hybridstitch.serving.server import Server

QUICK: dict[str, Any] = {"prompt": "red apple on blue", "seed": 7, "num_inference_steps": 2}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, emoji: Path) -> Path:
    """A model store with both archives of the embedded pair."""
    store = tmp_path_factory.mktemp("store")
    pack(emoji, out=store)
    pack(emoji, out=store, plain=True)
    return store


@pytest.fixture(scope="session")
def server(store: Path) -> Iterator[Server]:
    # As for the other tests: a second thread of the workers would wait for a core that others want.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with Server(store) as server:
        server.register("hybridstitch")
        server.register("plain")
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    return server.client

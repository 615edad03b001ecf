"""One real TorchServe for all tests of this folder, with both endpoints on the embedded pair, and one handler."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.serving.client.client import Client
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.archives import pack_echo
from tests.support.handlers import make_handler
from tests.support.served import Connect


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, emoji: Path) -> Path:
    """A model store with both archives of the embedded pair."""
    store = tmp_path_factory.mktemp("store")
    pack(emoji, out=store)
    pack(emoji, out=store, plain=True)
    return store


@pytest.fixture(scope="session")
def server(store: Path) -> Iterator[Server]:
    """A running server, one in each process. A test that registers a model unregisters it."""
    # As for the other tests: a second thread of the workers would wait for a core that others want.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with Server(store) as server:
        server.register("hybridstitch")
        server.register("plain")
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    """A client with the server's credentials."""
    return server.client


@pytest.fixture(scope="session")
def connect(server: Server) -> Iterator[Connect]:
    """A client of the server over "http" or "grpc"; further arguments replace those that work."""
    with ExitStack() as stack:

        def connected(transport: str, **arguments: Any) -> Client:
            ports = {"http": ("inference", "management"), "grpc": ("grpc_inference", "grpc_management")}[transport]
            url, management_url = (f"http://127.0.0.1:{server.ports[name]}" for name in ports)
            working = {"token": server.token(), "management_token": server.token("management"), "timeout": 120}
            given = {"url": url, "management_url": management_url, **working, **arguments}
            return stack.enter_context(Client(**given, transport=transport))

        yield connected


@pytest.fixture(scope="session")
def handler(tiny: Path) -> Any:
    """The stitching handler on the toy pair, started in this process. No test changes its pipeline."""
    return make_handler("hybridstitch_handler", tiny)


@pytest.fixture(scope="module")
def echo(store: Path, client: Client) -> Iterator[str]:
    """The name of a registered model that answers with what it was sent."""
    client.register(pack_echo(store, "1.0"), "echo")
    yield "echo"
    client.unregister("echo")

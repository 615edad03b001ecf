"""The examination of a machine before it serves, and of a server while it does."""

from __future__ import annotations

from pathlib import Path

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.address import parse_address
from hybridstitch.serving.client import Client
from hybridstitch.serving.examine_machine import examine_machine
from hybridstitch.serving.examine_server import examine_server
from hybridstitch.serving.finding import Finding
from hybridstitch.serving.tokens import read_key_file

__all__ = ["Finding", "examine", "read_tokens"]


def examine(
    url: str | None = None,
    *,
    management_url: str | None = None,
    key_file: str | Path | None = None,
    store: str | Path = "model_store",
    port: int = 8080,
    timeout: float = 30,
    heal: bool = False,
) -> list[Finding]:
    """Whether a server could start on this machine or, with `url`, whether every worker of the one there answers.

    management_url: by default the host of `url` at the next port.
    key_file: the server's token file; None for a server without tokens.
    store, port: the archives to serve and the first of the five ports, where there is no `url`.
    timeout: seconds for each prediction. heal: see `examine_server`.
    Raises InvalidInput for an address, port, limit or token file that cannot be one.
    """
    if timeout <= 0:
        raise InvalidInput([Problem("timeout", "more than 0 seconds", timeout)])
    if url is None:
        if heal:
            raise InvalidInput([Problem("heal", "a server to heal: --url", heal)])
        return examine_machine(Path(store), port)
    address = parse_address("url", url)
    management = management_url or address.next_port()
    if management is None:
        raise InvalidInput([Problem("url", "an address with a port, such as http://127.0.0.1:8080", address.base)])
    tokens = read_tokens(key_file) if key_file else {}
    client = Client(url, tokens.get("inference"), timeout, management, tokens.get("management"))
    return examine_server(client, heal)


def read_tokens(key_file: str | Path) -> dict[str, str]:
    """The tokens in a server's key_file.json, by kind: "inference" and "management"."""
    return read_key_file(key_file, "inference", "management", field="key-file")

"""Examines a machine before it serves, or a server while it does."""

from __future__ import annotations

import math
from pathlib import Path

from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.serving.client.address import parse_address
from hybridstitch.serving.client.auth import read_key_file, shown_path
from hybridstitch.serving.client.client import Client
from hybridstitch.serving.doctor.machine import Finding, examine_machine
from hybridstitch.serving.doctor.server import LEAST_SECONDS, examine_server, patience
from hybridstitch.serving.server.java_and_ports import HIGHEST_PORT, LOWEST_PORT


def examine(
    url: str | None = None,
    *,
    management_url: str | None = None,
    key_file: str | Path | None = None,
    store: str | Path = "model_store",
    port: int = 8080,
    timeout: float | None = None,
    heal: bool = False,
) -> list[Finding]:
    """Examine whether a server could start here or, with `url`, whether every worker of that server answers.

    Args:
        url: Address of a server's predictions. None: examine this machine.
        management_url: Its management address. None: the host of `url` at the next port.
        key_file: Its key_file.json. None: the tokens of the environment, if there are any.
        store: Without `url`, folder of the archives to serve.
        port: Without `url`, the first of the server's five ports.
        timeout: Seconds for each prediction, over 0. None: 30, or three times what a worker's first picture took.
        heal: With `url`, whether to restart workers that hang, see `examine_server`.

    Raises:
        InvalidInput: For a bad address, port or limit, and for a key file that cannot be read.
    """
    problems = []
    seconds = LEAST_SECONDS if timeout is None else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        problems.append(Problem("timeout", "seconds, over 0 and finite", timeout))
    if url is None:
        if heal:
            problems.append(Problem("heal", "the address of the server to heal, --url, beside it", None))
        given = {"management-url": management_url, "key-file": key_file}
        problems += [
            Problem(name, "--url beside it", "an address" if name == "management-url" else shown_path(value))
            for name, value in given.items()
            if value is not None
        ]
        if not LOWEST_PORT <= port <= HIGHEST_PORT:
            problems.append(Problem("port", f"{LOWEST_PORT}..{HIGHEST_PORT}", port))
        raise_problems(problems)
        return examine_machine(Path(store), port)
    raise_problems(problems)
    address = parse_address("url", url)
    management = management_url or address.next_port()
    if management is None:
        raise InvalidInput([Problem("url", "an address with a port, such as http://127.0.0.1:8080", address.base)])
    tokens = read_key_file(key_file, "inference", "management", field="key-file") if key_file else {}
    client = Client(url, tokens.get("inference"), seconds, management, tokens.get("management"))
    if timeout is None and (longer := patience(client)) > seconds:
        client = Client(url, tokens.get("inference"), longer, management, tokens.get("management"))
    return examine_server(client, heal)

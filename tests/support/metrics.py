"""What Prometheus scrapes from a server."""

from __future__ import annotations

import re
import time

import requests

from hybridstitch.serving.server.server import Server

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: Server) -> Samples:
    text = requests.get(f"http://127.0.0.1:{server.ports['metrics']}/metrics", timeout=30).text
    found: Samples = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line):
            labels = frozenset(re.findall(r'(\w+)="([^"]*)"', match[2]))
            found[match[1], labels] = float(match[3])
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of a name with these labels among theirs."""
    return sum(
        value for (found, own), value in samples.items() if found == name and labels.items() <= dict(own).items()
    )


def wait_for(server: Server, name: str, value: float, **labels: str) -> Samples:
    """The metrics as soon as one has arrived: workers tell the server by their log."""
    deadline = time.monotonic() + 10
    while True:
        samples = scrape(server)
        if total(samples, name, **labels) >= value or time.monotonic() > deadline:
            return samples
        time.sleep(0.1)

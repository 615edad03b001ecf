"""A server for one run: packs a pair, starts TorchServe, loads the archives and stops it at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hybridstitch.serving.server.disk import size_text
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server

STITCHED, PLAIN = "hybridstitch", "plain"
"""The two kinds of archive that a pair can be packed as, and the names of their models."""


@contextmanager
def served(
    pair: str | Path,
    store: str | Path,
    models: Sequence[str] = (STITCHED,),
    *,
    port: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Iterator[Server]:
    """Pack a pair and serve it, ready for requests, as long as the `with` block runs.

    Args:
        pair: Folder of a packed pair.
        store: Folder that the archives are written to.
        models: What to serve: `hybridstitch` (the pair), `plain` (the large model in diffusers' own pipeline), or both.
        port: First of the server's five ports. 0 picks free ones.
        report: Receives a line for the user before each long step.

    Raises:
        InvalidInput: For a folder that is no pair, and for a port that is taken or out of range.
        OSError: If the disk is too small, or Java is missing.
        RuntimeError: If the server or one of its workers does not start.
    """
    for model in models:
        report(f"packing {pair}")
        archive = pack(pair, plain=model == PLAIN, out=store, name=model)
        report(f"{archive} has {size_text(archive.stat().st_size)}")
    report("starting TorchServe")
    with Server(store, port=port) as server:
        for model in models:
            server.register(model)
        report(f"{server.url} is ready")
        yield server
    report("the server is stopped")

"""Reports a long step: a line when it begins, and one every ten seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

LINE_SECONDS = 10.0


@contextmanager
def waiting(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Report that `what` began and, until it ends, how long it has run. `say` takes a line for the user."""
    started, ended = time.monotonic(), Event()

    def tell() -> None:
        while not ended.wait(LINE_SECONDS):
            say(f"{what}: {time.monotonic() - started:.0f} s")

    say(f"{what} …")
    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

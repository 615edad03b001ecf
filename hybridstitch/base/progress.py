"""The progress of a long command on stderr: a bar, lines with an estimate, or how long one step has run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_SECONDS = 60.0
"""Time between two lines where there is no bar."""
WAITING_SECONDS = 10.0
"""Time between two lines about one long step."""


class Progress:
    """Counts the pictures that a command generates; a context manager.

    A terminal shows a bar. Elsewhere, and for a command that prints JSON, there is one line a minute. After the first
    pictures, a line estimates the remaining time.

    Args:
        what: the pictures in words, such as "3 contenders on 8 prompts, 2 seeds".
        total: number of pictures to generate now.
        kept: number of pictures that an earlier run generated.
        later: number of pictures that may follow these, at most.
        bar: False for a command that prints JSON.
    """

    def __init__(self, what: str, total: int, kept: int = 0, later: int = 0, bar: bool = True):
        self._total, self._later, self._done = total, later, 0
        before = f", {kept} of them generated before" if kept else ""
        say(f"{what}: {counted(total + kept, 'picture')}{before}")
        self._is_bar = bar and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit="picture", disable=not self._is_bar, leave=False)
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Add `count` pictures to those done."""
        if not count:
            return
        is_first = not self._done
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        rate = (now - self._began) / self._done
        if is_first:
            self._say(f"{rate:.2g} s a picture: about {duration(rate * (self._total - self._done))}{self._whole(rate)}")
        elif not self._is_bar and now - self._said >= LINE_SECONDS:
            left = duration(rate * (self._total - self._done))
            self._say(f"{self._done} of {counted(self._total, 'picture')}, {rate:.2g} s each, about {left} left")

    def _whole(self, rate: float) -> str:
        later = self._total - self._done + self._later
        return f", at most {duration(rate * later)} in all" if self._later else ""

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        with self._bar.external_write_mode(file=sys.stderr):
            say(line)


@contextmanager
def waiting(what: str, status: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Report on stderr that a long step begins and, every ten seconds, how long it has run.

    Args:
        what: The step in words, such as "starting TorchServe".
        status: Returns what it does now; empty if that is unknown.
    """
    started, ended = time.monotonic(), Event()

    def report() -> None:
        while not ended.wait(WAITING_SECONDS):
            now = status()
            say(f"{what}: {time.monotonic() - started:.0f} s{f', now: {now}' if now else ''}")

    say(f"{what} …")
    thread = Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def say(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the output of commands


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 picture, 2 pictures."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """A time in seconds as text, in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

"""The folder of a comparison. An answer is on disk before it counts, so an interrupted run continues from there."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hybridstitch.base.journal import SETTINGS, append_entries, read_entries, read_settings, write_whole
from hybridstitch.compare.endpoints.spec import Answer
from hybridstitch.compare.run.order import Cell
from hybridstitch.errors import InvalidInput, Problem

ANSWERS, SESSIONS, IMAGES = "answers.jsonl", "sessions.jsonl", "images"
COMPARISON, SHADOW = "a comparison", "a shadow run"


@dataclass(frozen=True)
class Row:
    """One answer on disk: a line of answers.jsonl.

    Attributes:
        side: "a" or "b".
        prompt: Number of the prompt, from 0.
        seed: Seed of the request.
        seconds: Latency.
        started: When the request was sent, in seconds since 1970.
        session: Number of the process that sent it, from 0.
        picture: Path of the picture in the folder; None for a failure.
        sha256: Digest of the picture's bytes; None for a failure.
        report: What the endpoint reported about the picture, if anything.
        error: The cause of a failure; None for a picture.
    """

    side: str
    prompt: int
    seed: int
    seconds: float
    started: float
    session: int
    picture: str | None
    sha256: str | None
    report: Mapping[str, Any] | None
    error: str | None


class Folder:
    """`settings.json`, `sessions.jsonl`, `answers.jsonl` and `images/` of one comparison."""

    def __init__(self, path: Path):
        self.path = path
        self._rows: dict[tuple[str, Cell], Row] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the comparison began with. Raises InvalidInput for a folder without a comparison."""
        kept = read_settings(self.path, "folder", "the folder of a comparison", lambda each: _kind(each) == COMPARISON)
        if kept is None:
            raise InvalidInput([Problem("folder", "the folder of a comparison", str(self.path))])
        return kept

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Lock the folder for a run with these settings while the context is open.

        Raises:
            InvalidInput: It holds answers to other settings, or another process uses it.
        """
        try:
            (self.path / IMAGES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput([Problem("out", "a folder", f"{self.path}: {error.strerror}")]) from None
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidInput([Problem("out", "a folder that no other run is using", str(self.path))]) from error
            self._check(json.loads(json.dumps(settings)))
            yield

    def _check(self, settings: dict[str, Any]) -> None:
        kind = _kind(settings)
        old = settings_of(self.path, kind)
        if old is None or not (self.path / ANSWERS).exists():
            write_whole(self.path / SETTINGS, json.dumps(settings, indent=1))
            return
        changed = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
        if changed:
            expected = f"an empty folder, or one of {kind} with the same {', '.join(changed)}"
            raise InvalidInput([Problem("out", expected, str(self.path))])

    def rows(self) -> Mapping[tuple[str, Cell], Row]:
        """The last answer of each side and cell. Only the first call reads the disk; `add` updates the result."""
        if self._rows is None:
            known = [Row(**line) for line in read_entries(self.path / ANSWERS)]
            self._rows = {(row.side, (row.prompt, row.seed)): row for row in known}
        return self._rows

    def complete(self) -> set[Cell]:
        """Cells that both sides have answered."""
        rows = self.rows()
        return {cell for side, cell in rows if side == "a" and ("b", cell) in rows}

    def sessions(self) -> list[dict[str, Any]]:
        """The descriptions of the processes that sent requests, in order."""
        return list(read_entries(self.path / SESSIONS))

    def begin_session(self, described: Mapping[str, Any]) -> int:
        """Store the description of a process that will send requests, and return its number."""
        number = len(self.sessions())
        append_entries(self.path / SESSIONS, dict(described))
        return number

    def add(self, side: str, cell: Cell, answer: Answer, started: float, session: int) -> Row:
        """Store an answer and return its row. The picture is written first, so each line has its picture."""
        name, digest = None, None
        if answer.picture is not None:
            name = f"{IMAGES}/{cell[0]:05d}-{cell[1]}-{side}.{answer.extension}"
            digest = hashlib.sha256(answer.picture).hexdigest()
            write_whole(self.path / name, answer.picture)
        row = Row(side, *cell, answer.seconds, started, session, name, digest, answer.report, answer.error)
        append_entries(self.path / ANSWERS, asdict(row))
        if self._rows is not None:
            self._rows[side, cell] = row
        return row


def settings_of(folder: Path, kind: str) -> dict[str, Any] | None:
    """Return the settings of the run in a folder, None for no run. Raises InvalidInput for a run of another kind."""
    return read_settings(folder, "out", f"an empty folder, or one of {kind}", lambda each: _kind(each) == kind)


def _kind(settings: Mapping[str, Any]) -> str:
    """Return the kind of run that these settings belong to."""
    return COMPARISON if {"a", "b", "prompts"} <= settings.keys() else SHADOW if "shadow" in settings else "a run"

"""Files of a run that can be interrupted and continued: JSON lines, and the settings that they belong to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hybridstitch.errors import InvalidInput, Problem

SETTINGS = "settings.json"
"""File in the folder of a run. A later run in the folder must have the same settings."""


def append_entries(path: Path, *entries: Any) -> None:
    """Append entries to a file of JSON lines, and return once they are on the disk."""
    with path.open("a", encoding="utf-8") as file:
        # A line break comes first, so that a line that an interruption cut off stays a line by itself.
        file.writelines("\n" + json.dumps(entry) for entry in entries)
        file.flush()
        os.fsync(file.fileno())


def read_entries(path: Path) -> Iterator[Any]:
    """Yield the entries of a file of JSON lines, none if there is no such file. Skips cut-off lines."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError):
            yield json.loads(line)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that an interruption leaves either the old content or the new one."""
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_settings(
    folder: Path, field: str, expected: str, fits: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """Return the settings in a folder, None if it has none.

    Args:
        folder: Folder of a run.
        field: Option that names the folder, for the message.
        expected: What the folder must be, for the message.
        fits: Returns whether the settings are those of the expected kind of run. Several commands write the file, and
            none may overwrite the settings of another.

    Raises:
        InvalidInput: if the file cannot be read, or `fits` is false.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        why = "" if isinstance(content, dict) and fits(content) else "is of something else"
    except (OSError, ValueError, RecursionError):
        why = "cannot be read as JSON"
    if why:
        raise InvalidInput([Problem(field, f"{expected}: its {SETTINGS} {why}", str(folder))])
    return content

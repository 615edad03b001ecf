"""`settings.json` of a folder that a command goes on with: its own kind, or one clear refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybridstitch.errors import InvalidInput, Problem

SETTINGS = "settings.json"


def kept_settings(
    folder: Path, field: str, expected: str, fits: Callable[[dict[str, Any]], bool]
) -> dict[str, Any] | None:
    """What the folder's settings.json holds; None without such a file.

    Several commands keep one, and none may replace another's.

    Args:
        field: the option that names the folder.
        expected: what it must be, for the message.
        fits: whether a content is of this kind.

    Raises:
        InvalidInput: for a file that is of another kind or cannot be read.
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

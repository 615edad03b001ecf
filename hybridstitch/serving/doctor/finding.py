"""What an examination found: one thing looked at, whether it is well, and what to do if it is not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `ok` is None where nothing could be said or nothing is needed."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""

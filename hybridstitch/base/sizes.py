"""Numbers of bytes as texts."""

from __future__ import annotations


def size_text(size: int) -> str:
    """A number of bytes as a text: 12 MiB, 3.4 GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"

"""Types of options that are paths. Before any work, inputs must exist and outputs must be writable."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridstitch.base.paths import HUB_ID, INDEX, SMALL_FOLDER
from hybridstitch.cli.values import Reader, Unreadable
from hybridstitch.errors import Problem

PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Endings of pictures, and the formats of requests."""


def _for_paths(read: Reader) -> Reader:
    """A reader that also refuses what can be no path, such as a name that is too long."""

    @functools.wraps(read)
    def checked(text: str) -> Any:
        try:
            return read(text)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it has a character that no name can have"
            return Unreadable(f"a path that the system takes ({reason.lower()})", text)

    return checked


def file_to_read(what: str) -> Reader:
    """An existing file. what: its description in messages, such as `a Python file`."""

    @_for_paths
    def read(text: str) -> Path | Unreadable:
        path = Path(text)
        if not path.is_file():
            return Unreadable(f"{what} ({_absence(path)})", text)
        return path if os.access(path, os.R_OK) else Unreadable(f"{what} that can be read", text)

    return read


def folder_to_read(what: str, *holding: str) -> Reader:
    """An existing folder that holds one of these names. what: its description in messages."""

    @_for_paths
    def read(text: str) -> Path | Unreadable:
        path = Path(text)
        if not path.is_dir():
            return Unreadable(f"{what} ({_absence(path, 'folder')})", text)
        if holding and not any((path / name).exists() for name in holding):
            return Unreadable(f"{what}, with {' or '.join(holding)}", text)
        return path

    return read


@_for_paths
def packed_pair(text: str) -> Path | Unreadable:
    """The folder of a packed pair."""
    path = Path(text)
    if not path.is_dir():
        return Unreadable(f"the folder of a packed pair ({_absence(path, 'folder')})", text)
    missing = [name for name in (INDEX, SMALL_FOLDER) if not (path / name).exists()]
    return Unreadable(f"the folder of a packed pair, with {' and '.join(missing)}", text) if missing else path


def model_source(*holding: str) -> Reader:
    """An SD3 model: a folder of diffusers that holds one of these names, or a hub id."""

    @_for_paths
    def read(text: str) -> str | Unreadable:
        path = Path(text)
        if path.is_dir():
            fits = any((path / name).exists() for name in holding)
            return text if fits else Unreadable(f"a folder with {' or '.join(holding)}, or a hub id", text)
        if path.is_file():
            return Unreadable("a folder as diffusers saves it, not a file", text)
        return text if HUB_ID.fullmatch(text) else Unreadable("a folder (no such folder) or a hub id, OWNER/NAME", text)

    return read


def file_to_write(*endings: str) -> Reader:
    """A writable file with one of these endings, if there are any. Its folder may be absent."""

    @_for_paths
    def read(text: str) -> Path | Unreadable:
        path = Path(text)
        if endings and path.suffix.lower() not in endings:
            return Unreadable(f"a file name ending in {', '.join(endings)}", text)
        if path.is_dir():
            return Unreadable("a file, not a folder", text)
        if path.exists():
            return path if os.access(path, os.W_OK) else Unreadable("a file that can be written", text)
        return path if _can_be_made(path.parent) else Unreadable("a file in a folder that can be written", text)

    return read


@_for_paths
def folder_to_write(text: str) -> Path | Unreadable:
    """A writable folder. It may be absent."""
    path = Path(text)
    return path if _can_be_made(path) else Unreadable("a folder that can be written", text)


def clashes(options: argparse.Namespace, names: Sequence[str]) -> list[Problem]:
    """One problem for each output file that is the same as an earlier one."""
    taken: dict[Path, str] = {}
    problems = []
    for name in names:
        path = getattr(options, name)
        if isinstance(path, Path) and (first := taken.setdefault(path.resolve(), name)) != name:
            problems.append(Problem(name, f"another file than --{first.replace('_', '-')}", str(path)))
    return problems


def make_folders(*files: Path | None) -> None:
    """Create the folders of these files."""
    for file in files:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)


def _can_be_made(folder: Path) -> bool:
    """Whether a folder can be written or created."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _absence(path: Path, what: str = "file") -> str:
    return f"this is no {what}" if path.exists() else f"no such {what}"

"""Reads the manifest of an archive, and finds the archives of a model store."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridstitch.errors import InvalidInput, Problem

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIRST_VERSION = "1.0"
MANIFEST = "MAR-INF/MANIFEST.json"
HANDLERS = {False: "hybridstitch_handler.py", True: "plain_sd3_handler.py"}
"""File names of the stitching handler, and of the plain one."""


@dataclass(frozen=True)
class Archive:
    """One archive of a model store.

    Attributes:
        path: Its file, or the folder of an unpacked archive.
        name: The model's name.
        version: The model's version.
        unpacked_bytes: What its unpacked copy takes on the disk. 0 for a folder, which TorchServe links to.
        handler: File name of its handler.
    """

    path: Path
    name: str
    version: str
    unpacked_bytes: int
    handler: str | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.path.name})"

    @property
    def content_bytes(self) -> int:
        """Bytes of its files, also of those that a folder links to."""
        files = self.path.rglob("*") if self.path.is_dir() else ()
        return self.unpacked_bytes or sum(file.stat().st_size for file in files if file.is_file())


def read_archive(path: Path) -> Archive:
    """Read the manifest of an archive or unpacked folder. Raises InvalidInput if there is none."""
    try:
        if path.is_dir():
            manifest, size = (path / MANIFEST).read_text(), 0
        else:
            with zipfile.ZipFile(path) as opened:
                manifest = opened.read(MANIFEST).decode()
                size = sum(entry.file_size for entry in opened.infolist())
        model = json.loads(manifest)["model"]
        name, version = model["modelName"], model.get("modelVersion", FIRST_VERSION)
        if not (isinstance(name, str) and isinstance(version, str)):
            raise TypeError("modelName and modelVersion: expected texts")
        return Archive(path, name, version, size, model.get("handler"))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = Problem("archive", f"a whole archive with {MANIFEST}", f"{path.name}: {error}")
        raise InvalidInput([problem]) from error


def archive_paths(store: str | Path) -> list[Path]:
    """The archives of a model store: every .mar, and every folder with a manifest."""
    unpacked = (path.parents[1] for path in Path(store).glob(f"*/{MANIFEST}"))
    return sorted([*Path(store).glob("*.mar"), *unpacked])


def by_version(archive: Archive) -> tuple[str, list[tuple[bool, Any]]]:
    """The key that sorts archives by name, then by version with numbers as numbers: 1.0, 2.0, 10.0."""
    parts = re.findall(r"\d+|\D+", archive.version)
    return archive.name, [(part.isdigit(), int(part) if part.isdigit() else part) for part in parts]


def file_name(name: str, version: str) -> str:
    """The file name of a version's archive without the ending. Versions of a model fit into one store."""
    return name if version == FIRST_VERSION else f"{name}-{version}"


def name_problems(field: str, value: str) -> list[Problem]:
    """The problem of a model's name or version, which becomes part of paths and addresses."""
    expected = "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit"
    return [] if NAME.fullmatch(value) else [Problem(field, expected, value)]

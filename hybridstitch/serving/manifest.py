"""What an archive says of itself, and which archives a model store holds."""

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


@dataclass(frozen=True)
class Archive:
    """One archive: where it lies, what model and version it holds, and what unpacking it takes."""

    path: Path
    name: str
    version: str
    unpacked_bytes: int
    """0 for a folder: TorchServe links to it instead of copying."""
    handler: str | None = None
    """The file of its handler."""

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.path.name})"


def read_archive(path: Path) -> Archive:
    """What the manifest of an archive or unpacked folder says. Raises InvalidInput if it has none."""
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
    """What looks like an archive in a model store: each .mar, and each unpacked folder."""
    unpacked = (path.parents[1] for path in Path(store).glob(f"*/{MANIFEST}"))
    return sorted([*Path(store).glob("*.mar"), *unpacked])


def by_version(archive: Archive) -> tuple[str, list[tuple[bool, Any]]]:
    """Sorts archives by name and then by version, numbers as numbers: 1.0, 2.0, 10.0."""
    parts = re.findall(r"\d+|\D+", archive.version)
    return archive.name, [(part.isdigit(), int(part) if part.isdigit() else part) for part in parts]


def file_name(name: str, version: str) -> str:
    """What the archive of a version is called, without the ending, so that versions lie side by side in one store."""
    return name if version == FIRST_VERSION else f"{name}-{version}"


def name_problems(field: str, value: str) -> list[Problem]:
    """What is wrong with a model's name or version: it becomes part of paths and addresses."""
    expected = "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit"
    return [] if NAME.fullmatch(value) else [Problem(field, expected, value)]

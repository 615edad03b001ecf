"""Adds the models to an archive: once as a copy, or as links without a copy."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

BESIDE_MODELS = 2**24
"""Bytes of an archive without models at most: the package, handler and settings, while they are packed."""
WEIGHTS = ".safetensors"
COMPRESSION = {"zip-store": zipfile.ZIP_STORED, "default": zipfile.ZIP_DEFLATED}


def needed_space(files: Sequence[Path], archive_format: str) -> int:
    """Bytes of disk that packing takes: the models once, or with links all but their weights."""
    copied = [file for file in files if archive_format != "link" or file.suffix != WEIGHTS]
    return sum(file.stat().st_size for file in copied) + BESIDE_MODELS


def add_models(archive: Path, models: Path, archive_format: str) -> None:
    """Add a folder of models, which are links, to an archive without models.

    torch-model-archiver would copy them into a temporary folder first, and so take twice their size.

    Args:
        archive: a .mar, or the folder of an unpacked archive.
        models: the folder; its name is that in the archive.
        archive_format: "zip-store" or "default" for a .mar, "no-archive" or "link" for a folder. "link" makes hard
            links to the weights, and symbolic links where the disk is another one or does not allow hard links. Files
            other than weights are small and may be edited in place: they are copied.
    """
    files = sorted(path for path in models.rglob("*") if path.is_file())
    if archive_format in COMPRESSION:
        with zipfile.ZipFile(archive, "a", COMPRESSION[archive_format]) as opened:
            for path in files:
                opened.write(path, path.relative_to(models.parent))
        return
    for path in files:
        target = archive / path.relative_to(models.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        if archive_format == "link" and path.suffix == WEIGHTS:
            _link(path.resolve(), target)
        else:
            shutil.copy(path, target)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or a file that this user may read but not link to
        target.symlink_to(file)

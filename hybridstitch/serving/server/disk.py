"""The disk space of archives: checked before anything is written, freed after a failure."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hybridstitch.base.extras import extra
from hybridstitch.base.sizes import size_text as size_text
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.manifest import Archive, read_archive

COPIES = "models"
"""Where TorchServe keeps its copy of each registered archive, or its link to an unpacked one, below its home."""
SETTLE_SECONDS = 1.0


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise OSError with both numbers if the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{purpose} needs {size_text(needed)} on the disk of {folder}, {size_text(free)} are free")


@contextmanager
def leaving_nothing(home: Path, archive: Archive) -> Iterator[None]:
    """Remove what a registration leaves below the server's `home` if it fails inside the `with` block.

    TorchServe 0.12 leaves the unpacked copy of an archive whose version is registered, the part that it unpacked of a
    damaged archive, and an empty folder for an absent one.
    """
    before = _leftovers(home)
    try:
        yield
    except BaseException:
        _remove(_leftovers(home) - before, archive)
        raise


def _leftovers(home: Path) -> set[Path]:
    return {*home.glob(f"{COPIES}/*"), *home.glob(f"{COPIES}*.download")}


def _remove(found: set[Path], archive: Archive) -> None:
    """Remove the folders that this registration made. Others may register archives at the same time.

    TorchServe links to an unpacked archive: the link is removed, its target stays.
    """
    copies = {path for path in found if path.parent.name == COPIES}
    # Another client may have registered this version a moment earlier: its worker uses one of the copies.
    used = _working_folders() if len(copies) > 1 else set()
    for copy in copies:
        content = link if (link := copy / archive.path.name).is_symlink() else copy
        if content.resolve() not in used and _is_copy_of(content, archive):
            shutil.rmtree(copy, ignore_errors=True)
    sizes = {path: _bytes_below(path) for path in found - copies}
    if sizes:
        time.sleep(SETTLE_SECONDS)
    for path, size in sizes.items():
        if _bytes_below(path) == size:  # one that still grows belongs to another registration
            shutil.rmtree(path, ignore_errors=True)


def _working_folders() -> set[Path]:
    """The folders that processes work in."""
    with extra("serve"):
        import psutil

    folders = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            folders.add(Path(process.cwd()))
    return folders


def _is_copy_of(content: Path, archive: Archive) -> bool:
    with suppress(InvalidInput, OSError):  # it may be gone by now
        if not any(content.iterdir()):
            return True
        held = read_archive(content)
        return (held.name, held.version) == (archive.name, archive.version)
    return False


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, file)).st_size
    return total

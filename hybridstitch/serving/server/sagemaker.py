"""The model in the folder that SageMaker mounts: an archive, an unpacked archive or a packed pair."""

from __future__ import annotations

from pathlib import Path

from hybridstitch.base.paths import INDEX
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.manifest import MANIFEST, Archive, archive_paths, read_archive
from hybridstitch.serving.server.pack import pack


def find_archive(folder: Path, work: Path) -> Archive:
    """The one archive to serve.

    Args:
        folder: The mounted folder. It is, or holds at its top, one .mar file, one unpacked archive or one packed pair.
        work: Folder for the archive of a pair, which is packed with links to the pair's weights.

    Raises:
        InvalidInput: For a folder with none of them or with several, and for a pair that `pack` refuses.
        OSError: If the disk is too small to pack a pair.
    """
    if (folder / MANIFEST).is_file():
        return read_archive(folder)
    archives = archive_paths(folder)
    pairs = [path.parent for path in (folder / INDEX, *sorted(folder.glob(f"*/{INDEX}"))) if path.is_file()]
    found = [*archives, *pairs]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "nothing of them"
        expected = "a folder with one archive (.mar), or one unpacked archive, or one packed pair"
        raise InvalidInput([Problem("store", f"{expected}; {names} found", str(folder))])
    return read_archive(archives[0] if archives else pack(pairs[0], out=work, archive_format="link"))

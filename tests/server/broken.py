"""Archives that `pack` would refuse: somebody changed the settings inside."""

from __future__ import annotations

import zipfile
from pathlib import Path


def with_settings(archive: Path, text: str) -> Path:
    """The archive or unpacked folder, with this text as its model-config.yaml from now on."""
    if archive.is_dir():
        (archive / "model-config.yaml").write_text(text)
        return archive
    with zipfile.ZipFile(archive) as opened:
        content = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(archive, "w") as changed:
        for name, data in content.items():
            changed.writestr(name, text if name == "model-config.yaml" else data)
    return archive

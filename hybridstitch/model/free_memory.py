"""The memory that is free for models: of this machine or its container, or of a GPU."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_MEMORY_OF_MACHINE = Path("/proc/meminfo")
_OWN_GROUP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: str = "cpu") -> int:
    """Bytes that a process may still allocate on a device.

    On a CPU, that is what the machine has available, or what the limit of the container leaves. Pages of files count
    as free: the kernel drops them on demand.

    Args:
        device: `cpu`, or a GPU such as `cuda:0`.
    """
    if not device.startswith("cuda"):
        return min([_of_machine("MemAvailable"), *(limit - used + files for limit, used, files in _groups())])
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def total_memory(device: str = "cpu") -> int:
    """Bytes that a device has in all; on a CPU those of the machine, or the limit of its container."""
    if not device.startswith("cuda"):
        return min([_of_machine("MemTotal"), *(limit for limit, _, _ in _groups())])
    import torch

    return torch.cuda.mem_get_info(device)[1]


def _of_machine(name: str) -> int:
    """A figure of Linux in bytes; elsewhere the whole memory of the machine, since it does not report what is free."""
    with suppress(OSError):
        for line in _MEMORY_OF_MACHINE.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups() -> list[tuple[int, int, int]]:
    """Of each control group of this process with a memory limit: the limit, the used bytes, and those of files."""
    folders = {_GROUPS, _GROUPS / "memory"}
    with suppress(OSError):
        for line in _OWN_GROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                base = _GROUPS / "memory" if controllers else _GROUPS
                own = base / path.lstrip("/")
                folders |= {own, *(each for each in own.parents if each.is_relative_to(base))}
    return [found for folder in sorted(folders) if (found := read_group(folder))]


def read_group(folder: Path) -> tuple[int, int, int] | None:
    """The memory limit of a control group, its used bytes, and those of them that hold files; None without a limit."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        with suppress(OSError, ValueError):  # no such group, or the limit is the word `max`
            most, now = int((folder / limit).read_text()), int((folder / used).read_text())
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return most, now, int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))
    return None

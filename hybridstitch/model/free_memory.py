"""The memory that is free for models: of this machine or its container, or of a GPU."""

from __future__ import annotations

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
        return min([_of_machine("MemAvailable"), *_left_in_groups()])
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _of_machine(name: str) -> int:
    for line in _MEMORY_OF_MACHINE.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{_MEMORY_OF_MACHINE}: expected a line {name}, got none")


def _left_in_groups() -> list[int]:
    """What the memory limits of the control groups of this process leave; empty without limits."""
    folders = {_GROUPS, _GROUPS / "memory"}
    with suppress(OSError):
        for line in _OWN_GROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                base = _GROUPS / "memory" if controllers else _GROUPS
                own = base / path.lstrip("/")
                folders |= {own, *(each for each in own.parents if each.is_relative_to(base))}
    return [left for folder in folders for left in _left_in(folder)]


def _left_in(folder: Path) -> list[int]:
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        with suppress(OSError, ValueError):  # no such group, or the limit is the word `max`
            most, now = int((folder / limit).read_text()), int((folder / used).read_text())
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return [most - now + int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))]
    return []

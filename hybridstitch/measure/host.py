"""The machine that produced the figures."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine() -> str:
    """The processor, the GPU, and the versions that the figures depend on."""
    info = Path("/proc/cpuinfo")
    named = (
        [line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    cpu = f"{named[0] if named else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers"))
    return f"{cpu}, {gpu}; Python {platform.python_version()}, {packages}"

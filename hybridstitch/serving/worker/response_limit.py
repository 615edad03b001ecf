"""The longest answer that TorchServe takes from a worker: it ends the worker that sends a longer one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

STOCK = 6_553_500
"""Bytes that TorchServe takes where its configuration names no limit."""
_KEY = "max_response_size"
_SERVER = "org.pytorch.serve.ModelServer"
_FROM_ENVIRONMENT = "enable_envvars_config"


def response_limit(server: int, environment: Mapping[str, str]) -> int:
    """The `max_response_size` of a TorchServe, which gives it to no worker.

    It is read where the server reads it: in the file of TS_CONFIG_FILE, else in that of its command line, else in
    config.properties in the server's folder; before that in TS_MAX_RESPONSE_SIZE if that file allows variables.

    Args:
        server: The id of the server's process, the parent of the worker.
        environment: The environment of the worker, which is that of the server.

    Returns:
        Bytes; `STOCK` if the server names no limit, and if its configuration cannot be read.
    """
    try:
        settings = _properties(_config_file(psutil.Process(server), environment).read_text(errors="replace"))
    except (psutil.Error, OSError):
        settings = {}
    size = settings.get(_KEY, "")
    if settings.get(_FROM_ENVIRONMENT, "").lower() == "true":
        size = environment.get(f"TS_{_KEY.upper()}", size)  # a variable wins over the file
    return int(size) if size.isdecimal() and int(size) else STOCK


def _config_file(server: psutil.Process, environment: Mapping[str, str]) -> Path:
    """The file that a server has its configuration from, below its working folder if the path is relative."""
    arguments = server.cmdline()
    if _SERVER not in arguments:
        raise FileNotFoundError("the parent of this process is no TorchServe")
    named = environment.get("TS_CONFIG_FILE")
    if named is None and "-f" in arguments[:-1]:
        named = arguments[arguments.index("-f") + 1]
    return Path(server.cwd(), named or "config.properties")


def _properties(text: str) -> dict[str, str]:
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, value in pairs}

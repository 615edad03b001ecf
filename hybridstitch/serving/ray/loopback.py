"""Keeps Ray on this machine: by default each of its processes listens on all addresses."""

from __future__ import annotations

import importlib
from typing import Any

ENVIRONMENT = {
    # Ray's own switch for machines without a cluster: its node has the address 127.0.0.1, and listens there alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's own default gives workers the lowest priority but four
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray's processes on one machine need in their environment."""


def keep_to_loopback() -> None:
    """Move the one port without a setting, which each replica opens for others. Ray calls this in each process."""
    replica: Any = importlib.import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))

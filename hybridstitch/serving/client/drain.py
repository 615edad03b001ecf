"""Unloads a version of a model without losing a request that it accepted.

TorchServe drops the queue of a version that it unregisters: the requests in it never get an answer. So the version is
unregistered only when its queue is empty and each of its workers is idle.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from hybridstitch.serving.client.replies import ServiceError, ServiceTimeout
from hybridstitch.serving.client.transport import Transport
from hybridstitch.wire.names import PROCESS

POLL_SECONDS = 0.2


def unregister_drained(transport: Transport, model: str, version: str | None, limit: float) -> None:
    """Wait until a version has answered what it accepted, then unregister it.

    Args:
        transport: The transport to the server.
        model: The model's name.
        version: The version to unload. None: the default one.
        limit: Seconds to wait, over 0.

    Raises:
        ServiceError: Of kind "still_at_work" when the limit passes. The version then stays as it was.
    """
    ends = time.monotonic() + limit
    described = transport.describe(f"{model}/{version}" if version else model, False)[0]
    name = f"{model}/{described['modelVersion']}"
    if _is_refused(transport, model, described):
        transport.unregister(name)  # raises TorchServe's refusal without a wait
        return
    while True:
        _await_idle(transport, name, limit, ends)
        if not transport.closes:
            transport.unregister(name)
            return
        if _unregister_closed(transport, name, described["minWorkers"], ends):
            return


def _is_refused(transport: Transport, model: str, described: dict[str, Any]) -> bool:
    """Whether TorchServe keeps this version: it is the default one, and there are others."""
    others = len(transport.describe(f"{model}/all", False)) > 1
    return others and transport.describe(model, False)[0]["modelVersion"] == described["modelVersion"]


def _await_idle(transport: Transport, name: str, limit: float, ends: float) -> None:
    """Wait until the queue is empty and every worker has answered a call that was made after that.

    A worker handles one call at a time, in the order of the queue. Its answer to such a call shows that it has
    finished the earlier ones.
    """
    idle: set[int] = set()
    while True:
        described = transport.describe(name, False)[0]
        ready = {worker["pid"] for worker in described["workers"] if worker["status"] == "READY"}
        waiting = described["jobQueueStatus"]["pendingRequests"]
        left = ends - time.monotonic()
        if not waiting and ready <= idle:
            return
        if left <= 0:
            what = f"{waiting} requests waiting" if waiting else "a worker at work"
            raise ServiceError(
                0,
                "still_at_work",
                f"{name} still has {what} after {limit:g} s, so it stays registered: expected no request for it. "
                "Send no more requests to it and allow a longer timeout; timeout=0 unloads it at once and drops them",
            )
        if waiting:
            idle = set()
            time.sleep(POLL_SECONDS)
            continue
        answered = _ask_workers(transport, name, len(ready - idle), left)
        if all(each == 0 for each in answered):
            return  # the handler does not name its process: as many answers as workers are the best sign
        fresh = {each for each in answered if each} - idle
        idle |= fresh
        if not fresh:
            time.sleep(POLL_SECONDS)  # idle workers answered in place of busy ones


def _ask_workers(transport: Transport, name: str, count: int, seconds: float) -> list[int | None]:
    """Make `count` calls at once and return the process id of each answer. 0: it names none. None: no answer."""

    def ask(_: int) -> int | None:
        try:
            custom = transport.describe(name, True, timeout=seconds)[0].get("customizedMetadata")
        except ServiceTimeout:
            return None
        except ServiceError:
            return 0
        process = custom.get(PROCESS) if isinstance(custom, dict) else None
        return process if isinstance(process, int) else 0

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def _unregister_closed(transport: Transport, name: str, workers: int, ends: float) -> bool:
    """Unregister a version while it takes no requests. Returns False if a request came at the last moment.

    Without workers TorchServe refuses new requests at once with status 503, so none can be lost in between.
    """
    patience = max(1.0, ends - time.monotonic())
    is_gone = False
    try:
        transport.scale(name, 0, patience)
        if not transport.describe(name, False)[0]["jobQueueStatus"]["pendingRequests"]:
            transport.unregister(name)
            is_gone = True
    finally:  # also after Ctrl-C: a version that stays must have its workers
        if not is_gone:
            with suppress(ServiceTimeout):  # they load their models meanwhile
                transport.scale(name, workers, patience)
    return is_gone

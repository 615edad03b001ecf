"""What can be seen of a server's worker processes from outside: which of them did something."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

WORKER_MODULE = "model_service_worker"


@dataclass(frozen=True)
class Sighting:
    """The workers of a server at one moment.

    TorchServe does not let a client choose its worker, but idle workers take turns, and one without work sleeps in its
    socket: it took something if it was woken up. Workers on another machine or in a container cannot be seen.
    """

    doings: dict[int, tuple[int, float]]
    """How often each process that is seen began to wait, and how many seconds it has worked."""

    @classmethod
    def of(cls, pids: Iterable[int]) -> Self:
        """Look at the processes that the server calls its workers."""
        try:
            import psutil
        except ImportError:
            return cls({})
        doings = {}
        for pid in pids:
            with suppress(psutil.Error, ValueError):
                process = psutil.Process(pid)
                if any(WORKER_MODULE in argument for argument in process.cmdline()):
                    times = process.cpu_times()
                    doings[pid] = (process.num_ctx_switches().voluntary, times.user + times.system)
        return cls(doings)

    def active_until(self, later: Sighting) -> set[int]:
        """The workers that did something between the two moments."""
        return {pid for pid, doing in later.doings.items() if doing != self.doings.get(pid)}

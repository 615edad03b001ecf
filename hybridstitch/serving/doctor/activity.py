"""What can be seen of a server's worker processes from outside: which of them are at work."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

WORKER_MODULE = "model_service_worker"


@dataclass(frozen=True)
class Sighting:
    """The workers of a server at one moment.

    The main thread of a worker handles the requests, and sleeps in its socket while there are none. Other threads of
    the process say nothing. Workers on another machine or in a container cannot be seen.
    """

    doings: dict[int, tuple[int, float]]
    """How often the main thread of each process that is seen began to wait, and its CPU time in seconds."""

    @classmethod
    def of(cls, pids: Iterable[int]) -> Self:
        """Look at the processes that the server calls its workers."""
        try:
            import psutil
        except ImportError:
            return cls({})
        doings = {}
        for pid in pids:
            with suppress(psutil.Error, ValueError, StopIteration):
                process = psutil.Process(pid)
                if any(WORKER_MODULE in argument for argument in process.cmdline()):
                    main = next(thread for thread in process.threads() if thread.id == pid)
                    doings[pid] = (process.num_ctx_switches().voluntary, main.user_time + main.system_time)
        return cls(doings)

    def active_until(self, later: Sighting) -> set[int]:
        """The workers that did something between the two moments."""
        return {pid for pid, doing in later.doings.items() if doing != self.doings.get(pid)}

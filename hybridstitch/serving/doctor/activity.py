"""Which worker processes of a server are active, as their CPU time and context switches show."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

WORKER_MODULE = "model_service_worker"


@dataclass(frozen=True)
class Activity:
    """What the workers of a server had done up to one moment.

    The main thread of a worker handles the requests and sleeps in its socket while there are none. Only it counts:
    other threads run while the worker is idle. Workers on another machine or in a container are not visible.

    Attributes:
        done: By process id, how often the main thread began to wait, and its CPU time in seconds.
    """

    done: dict[int, tuple[int, float]]

    @classmethod
    def of(cls, pids: Iterable[int]) -> Self:
        """The activity of these processes so far; without those that are not visible."""
        try:
            import psutil
        except ImportError:
            return cls({})
        done = {}
        for pid in pids:
            with suppress(psutil.Error, ValueError, StopIteration):
                process = psutil.Process(pid)
                if any(WORKER_MODULE in argument for argument in process.cmdline()):
                    main = next(thread for thread in process.threads() if thread.id == pid)
                    done[pid] = (process.num_ctx_switches().voluntary, main.user_time + main.system_time)
        return cls(done)

    def active_until(self, later: Activity) -> set[int]:
        """The workers that were active between the two moments."""
        return {pid for pid, done in later.done.items() if done != self.done.get(pid)}

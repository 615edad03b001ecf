"""One user of a model at a time: generations hook into the models while they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock
from weakref import WeakKeyDictionary

from torch.nn import Module

_LOCKS: WeakKeyDictionary[Module, RLock] = WeakKeyDictionary()
_GUARD = Lock()


@contextmanager
def exclusive(*models: Module) -> Iterator[None]:
    """Hold these models. Other threads wait, whichever pipeline they reach them through; the same thread may nest."""
    with _GUARD:
        locks = [_LOCKS.setdefault(model, RLock()) for model in sorted(models, key=id)]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield

"""Locks on models: a generation installs hooks in them while it runs."""

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
    """Hold these models for one thread.

    Other threads wait, also those that reach the models through another pipeline. The same thread may nest calls.
    """
    with _GUARD:
        locks = [_LOCKS.setdefault(model, RLock()) for model in sorted(models, key=id)]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield

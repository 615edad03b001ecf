"""Embeddings of prompts that were encoded before: the same prompt with many seeds is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from torch import Tensor

Tensors = tuple[Tensor, Tensor]


class PromptCache:
    """Tensors by key, up to a number of bytes. The entries that were not used for the longest time are dropped first.

    Args:
        limit: bytes of all tensors together; 0 keeps nothing.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self._held: OrderedDict[Hashable, Tensors] = OrderedDict()
        self._lock = Lock()

    @property
    def bytes(self) -> int:
        """Bytes of all tensors that it holds."""
        return sum(map(_size, self._held.values()))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of a key, made and kept if there are none. They are shared: the caller must not change them."""
        if not self.limit:
            return make()
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found
        made = make()
        with self._lock:
            self._held[key] = made
            while self.bytes > self.limit:
                self._held.popitem(last=False)
        return made

    def clear(self) -> None:
        """Drop everything, as after a change of the text encoders."""
        with self._lock:
            self._held.clear()


def _size(tensors: Tensors) -> int:
    return sum(each.nbytes for each in tensors)

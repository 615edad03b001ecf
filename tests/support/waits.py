"""Counts where a host would wait for an accelerator: an operation that reads the content of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DATA_DEPENDENT = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "unique_dim", "equal"}
"""Operators whose result, or its size, the host reads from the content of a tensor."""
TO_HOST = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__)
"""Methods that copy to the host. A tensor that is there already runs no operator in them."""


class _Methods(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in TO_HOST:
            self._found.append(function.__name__)
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in DATA_DEPENDENT or any(each is not None and each.dtype == torch.bool for each in indices):
            self._found.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[list[str]]:
    """Yield the list to which every wait inside the block adds its name."""
    found: list[str] = []
    with _Methods(found), _Operators(found):
        yield found

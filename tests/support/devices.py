"""Several devices on a machine that has none: real tensors on the CPU, each with the name of the device it would be on.

As on GPUs, an operation on tensors of two devices fails, and tensors move by `to` alone. Tensors without dimensions on
the CPU may join any others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

FIRST, SECOND = torch.device("xpu:0"), torch.device("xpu:1")
HOST = torch.device("cpu")


class NamedDevices(TorchFunctionMode):
    """While it is open, every tensor is on a named device.

    Attributes:
        events: copies between devices and calls of watched models, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return home(args[0])
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            out = func(*args, **given)
            args[0]._home = home(args[1])
            return out
        if func is Tensor.cpu:
            return self._moved((args[0], HOST), {})
        if func is Tensor.to:
            return self._moved(args, given)
        if func is torch._has_compatible_shallow_copy_type:
            return func(*args, **given)
        wanted = given.pop("device", None)
        homes = _homes(tree_leaves((args, given)))
        if len(homes) > 1:
            raise AssertionError(f"{getattr(func, '__name__', func)}: tensors on {sorted(map(str, homes))}")
        there = torch.device(wanted) if wanted is not None else next(iter(homes), HOST)
        return _tagged(func(*args, **given), there)

    def _moved(self, args: tuple[Any, ...], given: dict[str, Any]) -> Tensor:
        source, there, dtype = args[0], given.get("device"), given.get("dtype")
        for each in args[1:]:
            if isinstance(each, Tensor):
                there, dtype = home(each), each.dtype
            elif isinstance(each, torch.dtype):
                dtype = each
            elif isinstance(each, torch.device | str):
                there = each
        there = home(source) if there is None else torch.device(there)
        out = source if dtype is None else source.to(dtype)
        if there == home(source):
            return _tagged(out, there)
        self.events.append(f"copy to {there}")
        return _tagged(out.clone(), there)

    def watch(self, name: str, model: torch.nn.Module) -> None:
        """Note the beginning and the end of each forward of a model."""
        model.register_forward_pre_hook(lambda *_: self.events.append(f"{name} begins"))
        model.register_forward_hook(lambda *_: self.events.append(f"{name} ends"))


def home(tensor: Tensor) -> torch.device:
    """The device that a tensor would be on."""
    return getattr(tensor, "_home", HOST)


def _homes(leaves: Iterable[Any]) -> set[torch.device]:
    found = [(home(each), each.dim()) for each in leaves if isinstance(each, Tensor)]
    used = {there for there, dimensions in found if dimensions or there != HOST}
    return used or {there for there, _ in found}


def _tagged(out: Any, there: torch.device) -> Any:
    for each in tree_leaves(out):
        if isinstance(each, Tensor) and home(each) != there:
            each._home = there  # type: ignore[attr-defined]
    return out

"""The time limit of a batch: a server ends a worker that does not answer within `responseTimeout`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hybridstitch.wire.failures import DeadlineExceeded

LEAST_RESERVE = 2.0
RESERVED_SHARE = 0.05
STRETCHES = 1.5
FORGETTING = 0.9


class OutOfTime(DeadlineExceeded):
    """The worker ended the work shortly before its server would have ended it."""


class TimeLimit:
    """Raises OutOfTime in the middle of a batch's work when the time of the batch is nearly over.

    All requests of a batch share one limit, because a server waits for the answers to the whole batch.
    """

    def __init__(self, seconds: float):
        """seconds: The worker's `responseTimeout`."""
        self.seconds = seconds
        self._longest = 0.0
        self._began: float | None = None
        self._last = 0.0

    @property
    def reserve(self) -> float:
        """Seconds at the end in which no work may begin, because encoding and sending cannot be interrupted.

        It grows with the longest recent time between two checks.
        """
        wanted = max(LEAST_RESERVE, RESERVED_SHARE * self.seconds, STRETCHES * self._longest)
        return min(wanted, self.seconds / 2)

    def begin(self) -> None:
        """Start the clock of a batch."""
        self._longest *= FORGETTING  # a machine that was suspended once must not raise the reserve for ever
        self._began = self._last = time.monotonic()

    def end(self) -> None:
        """Stop the clock. Work between two batches has no limit."""
        self._note()
        self._began = None

    def check(self) -> None:
        """Raise OutOfTime if the rest of the time is reserved."""
        if self._began is not None and self._note() - self._began > self.seconds - self.reserve:
            raise OutOfTime(
                f"responseTimeout: expected a request or batch that takes less than {self.seconds:g} s, and the worker "
                "ended this one shortly before. Send fewer steps, pictures or gradient_steps, or raise responseTimeout "
                "in model-config.yaml"
            )

    def watch(self, models: Iterable[nn.Module]) -> None:
        """Check after every block of these models, and after its gradient.

        Checks between steps are too rare: one forward of a large model on a CPU can take minutes.
        """
        for block in _blocks(models):
            block.register_forward_hook(self._after_block)

    def _after_block(self, _module: nn.Module, _inputs: Any, outputs: Any) -> None:
        self.check()
        if torch.is_grad_enabled():
            for output in outputs if isinstance(outputs, tuple) else (outputs,):
                if isinstance(output, Tensor) and output.requires_grad:
                    output.register_hook(self._after_gradient)

    def _after_gradient(self, _gradient: Tensor) -> None:
        self.check()

    def _note(self) -> float:
        """Record the time since the last check, and return the current time."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        return now


def _blocks(models: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yield the parts that run one after another: layers of transformers, blocks of autoencoders.

    Nothing inside of a transformer's layer: `torch.compile` would make graphs of the hooks there.
    """
    for model in models:
        layers = getattr(model, "transformer_blocks", None)
        if layers is not None:
            yield from layers
            continue
        for module in model.modules():
            if isinstance(module, nn.ModuleList):
                yield from (block for block in module if block is not None)  # an absent layer is None

"""Ends a command by Ctrl-C or SIGTERM, also where the interrupt surfaces as another error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(message: str = "") -> Iterator[None]:
    """Raise KeyboardInterrupt for any interrupt inside the `with` block.

    An interrupt during an import or while a library holds a lock makes the cleanup there raise another error, such as
    "cannot release un-acquired lock". Its context is the interrupt.

    Args:
        message: Text of the KeyboardInterrupt. "": the text of the original one.
    """
    try:
        yield
    except BaseException as error:
        interrupt = _interrupt_in(error)
        if interrupt is None:
            raise
        raise KeyboardInterrupt(message or str(interrupt)) from None


def _interrupt_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error is, or that it was raised in the handling of; None if there is none."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error

"""The end of a command by Ctrl-C or SIGTERM, also where it surfaces as another error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(message: str = "") -> Iterator[None]:
    """Raise KeyboardInterrupt with a message for any interrupt of what is done inside.

    An interrupt in the middle of an import or of a library's lock makes the cleanup there raise an error of its own,
    such as "cannot release un-acquired lock", which has the interrupt as its context.
    """
    try:
        yield
    except BaseException as error:
        interrupt = _interrupt_in(error)
        if interrupt is None:
            raise
        raise KeyboardInterrupt(message or str(interrupt)) from None


def _interrupt_in(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that an error is, or came up in the handling of."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error

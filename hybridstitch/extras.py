"""Packages that only some commands need, and how to get them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ImportError, RuntimeError):  # noqa: N818 - the name says what is wrong
    """A package of an optional extra is not installed. The command line reports it without a traceback."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of packages that an extra of this project brings.

    Raises:
        MissingExtra: names the package and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        message = f"{package} is not installed: pip install 'hybridstitch[{name}]'"
        raise MissingExtra(message, name=error.name) from None

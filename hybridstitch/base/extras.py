"""Optional packages, and the error that names the command to install them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


class MissingExtra(ImportError, RuntimeError):  # noqa: N818 - a public name
    """A package of an optional extra is not installed. The command line reports it without a traceback."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import packages of an optional extra inside the block.

    Raises:
        MissingExtra: names the absent package and the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise MissingExtra(_absence(package, name), name=error.name) from None


def require(module: str, name: str, package: str | None = None) -> None:
    """Check that a package of an extra is installed, before anything that takes long.

    Args:
        module: the module to find.
        name: of the extra.
        package: name of the package if it differs from the module's.

    Raises:
        MissingExtra: if it is not installed.
    """
    if find_spec(module) is None:
        raise MissingExtra(_absence(package or module, name), name=module)


def _absence(package: str, name: str) -> str:
    return f"{package} is not installed: pip install 'hybridstitch[{name}]'"

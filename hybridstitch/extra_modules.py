"""Makes single Python files importable without their folders: no file beside one may replace an installed module."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from hybridstitch.errors import Problem, raise_if


class _Files:
    """Finds modules by name in a table of files, after all other finders."""

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_file_location(name, self.paths[name]) if name in self.paths else None


_files = _Files()


def add_modules(paths: Iterable[Path], field: str = "extra-module") -> None:
    """Let `import NAME` load each of these files NAME.py, and nothing else of its folder.

    Raises:
        InvalidInput: for a file whose name is no module's, or that of a module which is there already.
    """
    resolved = [path.resolve() for path in paths]
    raise_if([problem for path in resolved if (problem := _problem(path, field))])
    for path in resolved:
        if _files.paths.get(path.stem) != path:
            sys.modules.pop(path.stem, None)
            _files.paths[path.stem] = path
    if _files not in sys.meta_path:
        sys.meta_path.append(_files)


def _problem(path: Path, field: str) -> Problem | None:
    if path.suffix != ".py" or not path.stem.isidentifier():
        return Problem(field, "a Python file NAME.py whose name can be imported", str(path))
    if path.stem not in _files.paths and (path.stem in sys.stdlib_module_names or find_spec(path.stem) is not None):
        return Problem(field, f"another name: a module {path.stem!r} is there already", str(path))
    return None

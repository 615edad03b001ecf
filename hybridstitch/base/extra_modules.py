"""Makes Python files of a user importable by name, without the other files of their folders."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

from hybridstitch.errors import Problem, raise_problems


class _Files(MetaPathFinder):
    """Finds modules by name in a table of files. Their folders do not join `sys.path`."""

    def __init__(self, paths: Sequence[Path] = ()):
        self.paths = {path.stem: path.resolve() for path in paths}

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return spec_from_file_location(name, self.paths[name]) if name in self.paths else None


_added = _Files()


def add_modules(paths: Sequence[str | Path]) -> None:
    """Make each file NAME.py importable as NAME from now on.

    Raises:
        InvalidInput: for a path that is no Python file, and for a name that another module has.
    """
    files = [Path(path) for path in paths]
    raise_problems(module_problems(files))
    for name, path in _Files(files).paths.items():
        if _added.paths.get(name) != path:
            sys.modules.pop(name, None)
            _added.paths[name] = path
    if _added not in sys.meta_path:
        sys.meta_path.append(_added)


@contextmanager
def importable(paths: Sequence[Path]) -> Iterator[None]:
    """Make these files importable by name inside the block, ahead of all other modules; restore them afterwards.

    The files are those of an archive, which another process will import.
    """
    finder = _Files(paths)
    before = {name: sys.modules.pop(name) for name in finder.paths if name in sys.modules}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.paths:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def module_problems(paths: Sequence[Path], taken: Sequence[str] = ()) -> list[Problem]:
    """What is wrong with such files; `taken` are names that are in use."""
    used, problems = set(taken), []
    installed = {*sys.stdlib_module_names, *packages_distributions()} if paths else set()
    for path in paths:
        if path.suffix != ".py" or not path.stem.isidentifier() or not path.is_file():
            expected = "an existing Python file NAME.py whose name can be imported"
            problems.append(Problem("extra-module", expected, str(path)))
        elif path.stem in used:
            problems.append(Problem("extra-module", f"a name other than {path.stem}", str(path)))
        elif path.stem in installed:
            expected = f"a name other than {path.stem}, which is an installed module that others import"
            problems.append(Problem("extra-module", expected, str(path)))
        used.add(path.stem)
    return problems

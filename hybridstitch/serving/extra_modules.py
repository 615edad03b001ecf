"""Python files of the operator, importable by their names: those files, and nothing that lies beside them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from hybridstitch.errors import Problem


class _Files(MetaPathFinder):
    def __init__(self, paths: Sequence[Path]):
        self.paths = {path.stem: path.resolve() for path in paths}

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.paths[name]) if name in self.paths else None


@contextmanager
def importable(paths: Sequence[Path]) -> Iterator[None]:
    """Let these files be imported by their names inside it, whatever else has such a name; afterwards all is as it was.

    Their folders do not join `sys.path`: a file beside them could stand in for a module of Python.
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
    """What is wrong with such files; `taken` are names that others have."""
    used, problems = set(taken), []
    installed = {*sys.stdlib_module_names, *packages_distributions()} if paths else set()
    for path in paths:
        if path.suffix != ".py" or not path.stem.isidentifier() or not path.is_file():
            problems.append(Problem("extra-module", "an existing Python file", str(path)))
        elif path.stem in used:
            problems.append(Problem("extra-module", f"a name other than {path.stem}", str(path)))
        elif path.stem in installed:
            expected = f"a name other than {path.stem}, which is an installed module that others import"
            problems.append(Problem("extra-module", expected, str(path)))
        used.add(path.stem)
    return problems

"""Optional packages: where one is absent, the error names the extra that installs it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hybridstitch.base.extras import MissingExtra, extra, require

ROOT = Path(__file__).parents[1]
HAVE_THEM = {
    *(f"serving/worker/{name}.py" for name in ("torchserve", "response_limit", "ray")),
    *(f"serving/ray/{name}.py" for name in ("app", "driver", "front")),
    "testing/conformance.py",
}
"""Imported by a worker of TorchServe or by processes of Ray alone, and by tests."""


def extras_of_modules() -> dict[str, set[str]]:
    """The extras that bring each module which the core does without."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", each)[0].lower().replace("_", "-") for each in requirements}

    core, optional = names(project["dependencies"]), project["optional-dependencies"]
    found: dict[str, set[str]] = {}
    for module, distributions in packages_distributions().items():
        owners = {each.lower().replace("_", "-") for each in distributions}
        if not owners & core and (by := {each for each in optional if owners & names(optional[each])}):
            found[module] = by
    found.pop("hybridstitch")
    return found


def imports(node: ast.AST, guards: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The top-level module of each import that runs, and what stands around it."""
    for child in ast.iter_child_nodes(node):
        around = guards
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.With | ast.If | ast.Try):
            head = [*child.items] if isinstance(child, ast.With) else [child.test] if isinstance(child, ast.If) else [
                each.type for each in child.handlers if each.type]  # fmt: skip
            around = (*guards, *map(ast.unparse, head))
        if isinstance(child, ast.Import):
            yield from ((each.name.partition(".")[0], around) for each in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module.partition(".")[0], around
        yield from imports(child, around)


def test_who_imports_a_package_of_an_extra_names_the_extra() -> None:
    of_extras, seen = extras_of_modules(), set()
    for path in sorted((ROOT / "hybridstitch").rglob("*.py")):
        name = str(path.relative_to(ROOT / "hybridstitch"))
        guarded: dict[str, bool] = {}
        for module, guards in imports(ast.parse(path.read_text())):
            if module in of_extras and name not in HAVE_THEM:
                fits = {f"extra('{each}')" for each in of_extras[module]} | {"ImportError"}
                looked = any("find_spec" in guard for guard in guards)
                guarded[module] = guarded.get(module, False) or looked or bool(fits & set(guards))
        assert all(guarded.values()), (name, guarded)
        seen |= guarded.keys()
    assert {"psutil", "captum", "grpc", "matplotlib"} <= seen


def test_the_message_message_how_to_install_it() -> None:
    message = "^{} is not installed: pip install 'hybridstitch\\[serve\\]'$"
    with pytest.raises(MissingExtra, match=message.format("no_such_package")), extra("serve"):
        import no_such_package.part  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(MissingExtra, match=message.format("of-that-name")):
        require("no_such_package", "serve", "of-that-name")

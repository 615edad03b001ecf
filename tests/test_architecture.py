"""The floors and rooms of docs/architecture.md against every import of the package, and the imports of the tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest

from hybridstitch.base.paths import ROOT

PACKAGE = ROOT / "hybridstitch"
FLOORS = re.findall(r'f(\d)\["([^"]+)"\]', (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
FLOOR_OF = {name: int(number) for number, names in FLOORS for name in names.split(", ")}
WITHOUT_TORCH = (
    "wire.names",
    "serving.client.client",
    "recipe.names",
    "serving.doctor",
    "wire.proof",
    "html.explanation",
    "cli.main",
)


def module_of(path: Path) -> str:
    """The dotted name below the package; empty for the package itself."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports: at its top, inside functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name.removeprefix("hybridstitch.") in MODULES else node.module for name in inside)


ARROWS = {
    module: {
        name.removeprefix("hybridstitch").lstrip(".") for name in imported(path) if name.split(".")[0] == "hybridstitch"
    }
    - {module}
    for module, path in MODULES.items()
    if module  # the package re-exports its public names
}


def room_of(module: str) -> str:
    """The folder of a module. In a folder that holds rooms, each file is a room of its own."""
    path = MODULES[module]
    folder = path.parent
    holds_rooms = any((each / "__init__.py").exists() for each in folder.iterdir() if each.is_dir())
    return module if holds_rooms else module_of(folder / "__init__.py")


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Names that lead back to the first of them; empty if none do."""
    finished: set[str] = set()

    def follow(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in finished:
            return []
        for each in sorted(arrows.get(name, ())):
            if found := follow(each, [*way, name]):
                return found
        finished.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := follow(name, []))), [])


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_every_module_has_a_floor_and_every_name_of_the_picture_exists() -> None:
    tops = {module.split(".")[0] for module in MODULES if module}
    assert tops == FLOOR_OF.keys()
    assert len(FLOORS) == len({number for number, _ in FLOORS})


def test_imports_point_down() -> None:
    upward = [
        f"{module} -> {name}"
        for module, names in ARROWS.items()
        for name in names
        if not name or FLOOR_OF[module.split(".")[0]] < FLOOR_OF[name.split(".")[0]]
    ]
    assert upward == []


def test_no_circle_between_files() -> None:
    assert circle(ARROWS) == []


def test_no_circle_between_folders() -> None:
    rooms: dict[str, set[str]] = {}
    for module, names in ARROWS.items():
        own = room_of(module)
        rooms.setdefault(own, set()).update({room_of(name) for name in names if name} - {own})
    assert circle(rooms) == []


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_imported_without_torch(module: str) -> None:
    code = f"import sys, hybridstitch.{module}; print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_tests_share_code_through_support_alone() -> None:
    """A test module that imports another one, or a conftest, runs and breaks with it."""
    shared = ("tests.support", "tests.load")
    strays = [
        f"{path.relative_to(ROOT)} -> {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] == "tests" and not name.startswith(shared)
    ]
    assert strays == []


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("hybridstitch", "HybridStitchPipeline Client Recipe recipes Catalogue Report InvalidInput"),
        ("hybridstitch.plans", "Plan"),
        ("hybridstitch.masks", "MaskStrategy"),
        ("hybridstitch.fills", "Fill"),
        ("hybridstitch.strategy", "Strategy Range"),
        ("hybridstitch.testing", "PlanConformance MaskConformance FillConformance"),
        ("hybridstitch.serving.doctor", "examine"),
        ("hybridstitch.compare.endpoints", "open_endpoint parse_endpoint"),
        ("hybridstitch.compare.shadow", "Shadow"),
    ],
)
def test_public_names_stay_where_they_are(module: str, names: str) -> None:
    found = import_module(module)
    assert [name for name in names.split() if not callable(getattr(found, name, None))] == []


def test_one_file_of_the_package_knows_torchserve() -> None:
    """Everything else of a worker serves rows and gives answers, so that another server can run it."""
    knowing = {module for module, path in MODULES.items() for name in imported(path) if name.split(".")[0] == "ts"}
    assert knowing == {"serving.worker.torchserve"}
    importing = {module for module, names in ARROWS.items() if "serving.worker.torchserve" in names}
    assert importing == set()  # the files of handler/ import it

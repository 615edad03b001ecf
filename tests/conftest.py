"""Fixtures and markers of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.paths import EMBEDDED_PAIR
from tests.support.sprites import make_library
from tests.support.tiny import load_pipeline, make_pair_folder
from training.scenes import Library

LONGEST_FIRST = ("server/test_docs.py", "server/test_doctor.py", "server/test_chaos.py", "server/", "explain/")
"""Files that start first, by prefix: a long file that starts last keeps one of two processes waiting."""

# Toy models gain nothing from a second thread, and lose a lot where another process wants the core.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the shared server, and move the longest files to the front."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        file = item.path.relative_to(tests).as_posix() if item.path.is_relative_to(tests) else ""
        return next((at for at, prefix in enumerate(LONGEST_FIRST) if file.startswith(prefix)), len(LONGEST_FIRST))

    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
    items.sort(key=place)  # stable: the order within a file stays


@pytest.fixture(scope="session")
def emoji() -> Path:
    """The folder of the embedded pair."""
    return EMBEDDED_PAIR


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pair of toy size with random weights."""
    return make_pair_folder(tmp_path_factory.mktemp("tiny") / "pair")


@pytest.fixture(scope="session")
def tiny_pipe(tiny: Path) -> HybridStitchPipeline:
    """The toy pair, loaded once. A test that changes a pipeline loads its own."""
    return load_pipeline(tiny)


@pytest.fixture(scope="session")
def emoji_pipe(emoji: Path) -> HybridStitchPipeline:
    """The embedded pair, loaded once. A test that changes a pipeline loads its own."""
    return load_pipeline(emoji)


@pytest.fixture(scope="session")
def library() -> Library:
    """Three shapes, whose colour is the style."""
    return make_library()

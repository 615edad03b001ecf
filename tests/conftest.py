"""Fixtures of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.paths import EMBEDDED_PAIR
from tests.support.sprites import make_library
from tests.support.tiny import make_pair_folder
from training.scenes import Library

# Toy models gain nothing from a second thread, and lose a lot where another process wants the core.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def emoji() -> Path:
    """The embedded pair."""
    return EMBEDDED_PAIR


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair with random weights that draws in no time."""
    return make_pair_folder(tmp_path_factory.mktemp("tiny") / "pair")


@pytest.fixture(scope="module")
def tiny_pipe(tiny: Path) -> HybridStitchPipeline:
    pipe = HybridStitchPipeline.from_pretrained(tiny)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def library() -> Library:
    """Three shapes, whose colour is the style."""
    return make_library()

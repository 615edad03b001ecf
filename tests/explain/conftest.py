from __future__ import annotations

from pathlib import Path

import pytest

from hybridstitch import HybridStitchPipeline
from tests.support.tiny import make_pair_folder


@pytest.fixture(scope="package")
def embedded_pair(emoji: Path) -> HybridStitchPipeline:
    return _quiet(emoji)


@pytest.fixture(scope="package")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> HybridStitchPipeline:
    return _quiet(make_pair_folder(tmp_path_factory.mktemp("pair")))


def _quiet(folder: Path) -> HybridStitchPipeline:
    pipe = HybridStitchPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe

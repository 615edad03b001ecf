"""Pipelines of one tiny pair, and diffusers' own on its large model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from hybridstitch import HybridStitchPipeline
from tests.support.calls import opened
from tests.support.tiny import make_pair_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_pair_folder(tmp_path_factory.mktemp("call"))


@pytest.fixture
def pipe(folder) -> HybridStitchPipeline:
    """One to change."""
    return opened(folder)


@pytest.fixture(scope="module")
def shared(folder) -> HybridStitchPipeline:
    """One that stays as it is."""
    return opened(folder)


@pytest.fixture(scope="module")
def plain(folder) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

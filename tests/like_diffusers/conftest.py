"""Pipelines of the toy pair, and diffusers' own on its large model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from hybridstitch import HybridStitchPipeline


@pytest.fixture
def pipe(tiny_pipe: HybridStitchPipeline) -> HybridStitchPipeline:
    """A copy that the test may change."""
    return HybridStitchPipeline(deepcopy(tiny_pipe._pipeline), deepcopy(tiny_pipe.small))


@pytest.fixture
def shared(tiny_pipe: HybridStitchPipeline) -> HybridStitchPipeline:
    """The pipeline of all tests, which no test changes."""
    return tiny_pipe


@pytest.fixture(scope="session")
def plain(tiny: Path) -> StableDiffusion3Pipeline:
    """diffusers' own pipeline with the large model."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        tiny, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

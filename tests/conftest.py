"""Fixtures of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

EMOJI = Path(__file__).parents[1] / "models" / "emoji"

# Toy models gain nothing from a second thread, and lose a lot where another process wants the core.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def emoji() -> Path:
    """The embedded pair."""
    return EMOJI

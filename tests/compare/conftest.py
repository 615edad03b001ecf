"""Fixtures of the comparison's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.picture_server import drawing_server


@pytest.fixture(scope="session")
def drawing(tiny: Path) -> Iterator[str]:
    """The address of a small server that draws with the tiny pair."""
    with drawing_server(tiny) as url:
        yield url

"""What libraries print when this package is imported in a script."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from hybridstitch.base.quiet import silence_torchao

IMPORTED = """
import logging
import {first}
from diffusers import SD3Transformer2DModel
import torchao
logging.getLogger("torchao").warning("of torchao")
logging.getLogger("hybridstitch").warning("of this package")
"""
LINES = ("Failed to load", "is an Enum subclass", "Unable to import `torchao`")


def printed(first: str) -> str:
    code = [sys.executable, "-c", IMPORTED.format(first=first)]
    return subprocess.run(code, capture_output=True, text=True, check=True, timeout=600).stderr


@pytest.mark.slow
def test_an_import_prints_nothing_of_torchao_and_hides_nothing_else() -> None:
    found = printed("hybridstitch")
    assert not [line for line in LINES if line in found]
    assert "of torchao" in found
    assert "of this package" in found


@pytest.mark.parametrize(
    ("name", "line", "is_shown"),
    [
        ("torchao", "Failed to load kernels.so: no such file", False),
        ("torchao", "another line", True),
        ("hybridstitch", "Failed to load the pair", True),
        ("torch.utils._pytree", "%s is an Enum subclass and is now natively supported", False),
        ("diffusers.quantizers.torchao.torchao_quantizer", "Unable to import `torchao` Tensor objects. This", False),
        ("diffusers", "Unable to import `torchao` Tensor objects. This", True),
    ],
)
def test_only_the_lines_of_the_import_are_hidden(name: str, line: str, is_shown: bool) -> None:
    silence_torchao()
    record = logging.LogRecord(name, logging.WARNING, __file__, 1, line, None, None)
    assert bool(logging.getLogger(name).filter(record)) == is_shown

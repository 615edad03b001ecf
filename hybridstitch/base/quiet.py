"""Hides what libraries print, unless a command is run with `--verbose`."""

from __future__ import annotations

import logging
import os
import warnings
from functools import partial

_SILENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
}
"""Environment variables that the libraries read on import, also in child processes."""


_OF_TORCHAO = {
    "torchao": "Failed to load ",
    "torch.utils._pytree": "%s is an Enum subclass ",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
}
"""By logger, the start of what it reports when diffusers imports torchao: kernels and classes of other versions."""


def silence_torchao() -> None:
    """Hide the lines that an import of torchao logs, and nothing else. Call it before diffusers is imported."""
    for name, start in _OF_TORCHAO.items():
        logging.getLogger(name).addFilter(partial(_is_other, start))


def silence_libraries() -> None:
    """Hide warnings, log lines and progress bars of libraries. Call it before they are imported."""
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_ours)


def hide_loading() -> None:
    """Hide the progress bars of loading in diffusers, which no variable controls."""
    if os.environ.get("DIFFUSERS_VERBOSITY") == "error":
        from diffusers.utils import logging as diffusers_logging

        diffusers_logging.disable_progress_bar()


def _is_other(start: str, record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(start)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == "hybridstitch" or record.levelno >= logging.ERROR

"""Paths of the files that are not Python, and the names of the files of a pair."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
IN_WHEEL = PACKAGE / "_files"
"""Where a wheel carries what a checkout has beside the package; setup.py puts it there."""
ROOT = IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent
"""Holds `handler/`, `config.properties` and `models/`: the checkout, or `IN_WHEEL`."""
EMBEDDED_PAIR = ROOT / "models" / "emoji"
HELD_OUT_FILE, CALIBRATION_FILE = "heldout_prompts.txt", "calibration_prompts.txt"
"""Prompts in the folder of a pair: those that evaluate it, and those that `tune` searches recipes on."""
HELD_OUT_PROMPTS = EMBEDDED_PAIR / HELD_OUT_FILE
HANDLERS = ROOT / "handler"
SERVER_PROPERTIES = ROOT / "config.properties"
INDEX = "model_index.json"
"""The index of a diffusers pipeline."""
SMALL_FOLDER = "transformer_small"
"""The small transformer in the folder of a packed pair."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""OWNER/NAME of a model on the Hugging Face Hub."""
PAIR_FILE = "pair.json"
"""The description of a pair, in its folder."""

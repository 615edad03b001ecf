"""Checks where the models of a pair come from, before torch is imported, so that a mistake shows at once."""

from __future__ import annotations

from pathlib import Path

from hybridstitch.base.paths import HUB_ID, INDEX, SMALL_FOLDER
from hybridstitch.errors import Problem


def source_problems(
    pair: str | Path | None, large: str | Path | None, small: str | Path | None, plain: bool = False
) -> list[Problem]:
    """The problems of the folders and hub ids.

    Args:
        pair: the folder of a packed pair; excludes `large` and `small`.
        large: a folder of diffusers or a hub id.
        small: likewise.
        plain: whether the large model alone is wanted.
    """
    if pair is not None and (large is not None or small is not None):
        return [Problem("pair", "either a packed pair, or large and small", str(pair))]
    if pair is not None:
        return _pair_problems(Path(pair), plain)
    if plain:
        extra = [] if small is None else [Problem("small", "nothing: plain takes the large model alone", str(small))]
        return extra or _side_problems("large", large, "pair or large")
    if large is None and small is None:
        return [Problem("pair", "the folder of a packed pair, or large and small", None)]
    return [
        problem
        for name, side in (("large", large), ("small", small))
        for problem in _side_problems(name, side, "without a pair, both large and small")
    ]


def _pair_problems(pair: Path, plain: bool) -> list[Problem]:
    two = "for two models give large and small, as folders or hub ids"
    if not pair.is_dir():
        return [Problem("pair", f"the folder of a packed pair (no such folder); {two}", str(pair))]
    if not plain and not (pair / SMALL_FOLDER).is_dir():
        one = "; this one holds one model" if (pair / INDEX).is_file() else ""
        expected = f"the folder of a packed pair, with {SMALL_FOLDER}{one}: {two}; `pack --plain` takes one model"
        return [Problem("pair", expected, str(pair))]
    return []


def _side_problems(name: str, side: str | Path | None, wanted: str) -> list[Problem]:
    if side is None:
        return [Problem(name, f"a folder or hub id: {wanted}", None)]
    if Path(side).is_dir():
        return []
    if Path(side).is_file():
        return [Problem(name, "a folder as diffusers saves it, not a file: see docs/own-pair.md", str(side))]
    if HUB_ID.fullmatch(str(side)):
        return []
    return [Problem(name, "a folder (no such folder) or a hub id, OWNER/NAME", str(side))]

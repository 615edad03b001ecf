"""Checks the folders that `pack` gets before torch is imported, so that a mistake shows at once."""

from __future__ import annotations

from pathlib import Path

from hybridstitch.base.paths import HUB_ID, SMALL_FOLDER
from hybridstitch.errors import Problem


def source_problems(
    pair: str | Path | None, large: str | Path | None, small: str | Path | None, plain: bool
) -> list[Problem]:
    """The problems of the folders, see `pack`."""
    given = {"pair": pair, "large": large, "small": small}
    ways = "--pair DIR or --large DIR" if plain else "--pair DIR, or --large DIR and --small DIR"
    if pair is not None and (large is not None or small is not None):
        return [Problem("pair", f"either {ways}", str(pair))]
    if pair is None and large is None and small is None:
        return [Problem("pair", ways, None)]
    if plain and small is not None:
        return [Problem("small", "nothing: --plain packs the large model alone", str(small))]
    wanted = ["pair"] if pair is not None else ["large"] if plain else ["large", "small"]
    problems = [
        Problem(name, "a folder: without --pair, both --large DIR and --small DIR", None)
        if given[name] is None
        else Problem(name, f"an existing folder (no such folder{_download(str(given[name]))})", str(given[name]))
        for name in wanted
        if given[name] is None or not Path(str(given[name])).is_dir()
    ]
    if pair is not None and not problems and not plain and not Path(pair, SMALL_FOLDER).is_dir():
        expected = f"a folder with {SMALL_FOLDER}; for two models give --large DIR and --small DIR, for one --plain"
        problems.append(Problem("pair", expected, str(pair)))
    return problems


def _download(name: str) -> str:
    """How to download a name that is a hub id."""
    return f"; `hf download {name} --local-dir FOLDER` makes one" if HUB_ID.fullmatch(name) else ""

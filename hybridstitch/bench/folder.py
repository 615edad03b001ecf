"""The folder of a bench: an interrupted one goes on where it stopped, and what differs is never mixed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from hybridstitch.base.journal import SETTINGS, append_entries, read_entries, read_settings, write_whole
from hybridstitch.errors import InvalidInput, Problem, raise_problems


@dataclass(frozen=True)
class Fidelity:
    """How close pixels are to the reference's, see `metrics` and `perceptual`.

    perceptual: None without the package that measures it.
    """

    psnr_db: float
    ssim: float
    perceptual: float | None


@dataclass(frozen=True)
class Result:
    """What came of one picture.

    cost: FLOPs of the transformers, the reference's being 1. ms: of denoising; reference_ms: the reference's, drawn in
    the same minute from the same noise. whole: of all pixels; inside, outside: of the tokens that the large model
    rendered more often than the mean token, and of the others, None where there was no difference.
    """

    prompt: int
    seed: int
    contender: str
    cost: float
    ms: float
    reference_ms: float
    large_token_share: float
    whole: Fidelity
    inside: Fidelity | None
    outside: Fidelity | None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """Of what `asdict` made."""
        nested = {name: values[name] and Fidelity(**values[name]) for name in ("whole", "inside", "outside")}
        return cls(**{**values, **nested})


class BenchFolder:
    """A bench's folder: `settings.json`, `results-N.jsonl` with a line for each picture, and `pictures/`.

    Args:
        folder: its path.
        settings: what all contenders share.
        contenders: what each of them is, by name.
        part: of a bench that several processes share, each writes a file of results of its own.
        writes_settings: False for the processes that only draw: the one that began them has written the settings.

    Raises:
        InvalidInput: if the folder holds results of other settings, or of another contender under one of these names.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        contenders: dict[str, dict[str, Any]],
        part: int = 0,
        writes_settings: bool = True,
    ):
        self.path = folder
        self._lines = folder / f"results-{part}.jsonl"
        settings, contenders = json.loads(json.dumps([settings, contenders]))
        self.settings: dict[str, Any] = settings
        self.contenders: dict[str, Any] = contenders
        if writes_settings:
            self._begin()

    def _begin(self) -> None:
        raise_problems(changed_settings(self.path, self.settings, self.contenders))
        old = _begun(self.path)
        everyone = (old["contenders"] if old else {}) | self.contenders
        if not old or everyone != old["contenders"]:
            self.path.mkdir(parents=True, exist_ok=True)
            content = {"settings": self.settings, "contenders": everyone}
            write_whole(self.path / SETTINGS, json.dumps(content, indent=1))

    def results(self) -> list[Result]:
        """Those of all contenders so far."""
        paths = sorted(self.path.glob("results-*.jsonl"))
        return [Result.from_dict(entry) for path in paths for entry in read_entries(path)]

    def add(self, results: Iterable[Result]) -> None:
        """Append results, whose pictures are there already."""
        append_entries(self._lines, *map(asdict, results))

    def picture_path(self, contender: str, prompt: int, seed: int) -> Path:
        """Where a picture lies."""
        return self.path / "pictures" / contender.replace("/", "-") / f"{prompt:04d}-{seed}.png"

    def save_picture(self, contender: str, prompt: int, seed: int, picture: np.ndarray) -> None:
        """Write a picture `(height, width, 3)` uint8."""
        path = self.picture_path(contender, prompt, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def changed_settings(
    folder: Path, settings: Mapping[str, Any], contenders: Mapping[str, Any] = MappingProxyType({})
) -> list[Problem]:
    """What keeps a folder from taking more results: these settings or contenders are not those of its results."""
    try:
        old = _begun(folder)
    except InvalidInput as error:
        return list(error.problems)
    if not old:
        return []
    changed = [name for name, value in settings.items() if old["settings"].get(name) != value]
    changed += [name for name, value in contenders.items() if old["contenders"].get(name, value) != value]
    expected = f"an empty folder, or one of a bench with the same {', '.join(changed)}"
    return [Problem("out", expected, str(folder))] if changed else []


def _begun(folder: Path) -> dict[str, Any] | None:
    """The settings of a folder with results; None for one whose bench failed before its first picture."""
    kept = _kept(folder)
    return kept if any(folder.glob("results-*.jsonl")) else None


def contenders_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What each contender of the bench in a folder is, by name; none where there is no bench yet."""
    kept = _kept(folder)
    return kept["contenders"] if kept else {}


def _kept(folder: Path) -> dict[str, Any] | None:
    """The content of a bench's settings.json, None without one. Raises InvalidInput for any other."""

    def is_bench(content: dict[str, Any]) -> bool:
        return all(isinstance(content.get(name), dict) for name in ("settings", "contenders"))

    return read_settings(folder, "out", "an empty folder, or one of a bench", is_bench)

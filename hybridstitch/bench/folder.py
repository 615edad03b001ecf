"""The folder of a bench. An interrupted bench continues in it, and results of different settings never mix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from hybridstitch.base.images import encode_image
from hybridstitch.base.journal import SETTINGS, append_entries, read_entries, read_settings, write_whole
from hybridstitch.base.mark import mark
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.measure.intervals import Interval

QUALITY = "quality.json"
"""File in the folder of a bench: measures of each contender's pictures alone."""


@dataclass(frozen=True)
class Fidelity:
    """Closeness of a picture to the reference, over all of it or over a region.

    Attributes:
        psnr_db: PSNR in dB, 60 at most, see `measure.pixels`. Higher is closer.
        ssim: Mean SSIM, 1 for equal pictures.
        perceptual: Perceptual distance, 0 for equal pictures. None without the package that computes it.
    """

    psnr_db: float
    ssim: float
    perceptual: float | None


@dataclass(frozen=True)
class Result:
    """Measurements of one picture.

    Attributes:
        prompt: Index of the prompt.
        seed: Seed of its noise.
        contender: Name of the contender that generated it.
        cost: FLOPs of the transformers, relative to the reference.
        ms: Time of denoising.
        reference_ms: The same for the reference's picture, generated from the same noise within the same minute.
        large_token_share: Share of the token-steps that the large model rendered, 0 to 1.
        whole: Fidelity of all pixels.
        inside: Fidelity where the large model rendered tokens more often than on average. None if all are equal.
        outside: Fidelity of the other pixels, None if all tokens are equal.
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
        """Return the result that `dataclasses.asdict` converted."""
        nested = {name: values[name] and Fidelity(**values[name]) for name in ("whole", "inside", "outside")}
        return cls(**{**values, **nested})


class BenchFolder:
    """The folder of a bench: `settings.json`, `results-N.jsonl` with a line for each picture, and `pictures/`.

    Args:
        folder: Its path.
        settings: Settings of all contenders.
        contenders: Descriptions of the contenders, by name.
        part: Number of the results file that this process writes. Processes that share a bench have one each.
        writes_settings: False for the processes of a bench whose main process has written the settings.

    Raises:
        InvalidInput: if the folder has results of other settings, or of another contender with one of these names.
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
            self._write_settings()

    def _write_settings(self) -> None:
        raise_problems(settings_problems(self.path, self.settings, self.contenders))
        old = _settings_of_results(self.path)
        everyone = (old["contenders"] if old else {}) | self.contenders
        if not old or everyone != old["contenders"]:
            self.path.mkdir(parents=True, exist_ok=True)
            content = {"settings": self.settings, "contenders": everyone}
            write_whole(self.path / SETTINGS, json.dumps(content, indent=1))

    def results(self) -> list[Result]:
        """Return the results of all contenders so far."""
        paths = sorted(self.path.glob("results-*.jsonl"))
        return [Result.from_dict(entry) for path in paths for entry in read_entries(path)]

    def add(self, results: Iterable[Result]) -> None:
        """Append results. Their pictures must be saved before, so that every result has its picture."""
        append_entries(self._lines, *map(asdict, results))

    def quality(self) -> dict[str, dict[str, Interval]]:
        """Return the measures of quality.json by contender, none without the file. `training.judge` writes it."""
        path = self.path / QUALITY
        judged = json.loads(path.read_text()) if path.exists() else {}
        return {
            name: {measure: Interval(**value) for measure, value in figures.items() if value["value"] is not None}
            for name, figures in judged.items()
        }

    def picture_path(self, contender: str, prompt: int, seed: int) -> Path:
        """Return the path of a picture."""
        return self.path / "pictures" / contender.replace("/", "-") / f"{prompt:04d}-{seed}.png"

    def save_picture(self, contender: str, prompt: int, seed: int, picture: np.ndarray) -> None:
        """Save a picture `(height, width, 3)` in 0..255, marked as generated."""
        path = self.picture_path(contender, prompt, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(picture)
        mark(image)
        path.write_bytes(encode_image(image, "png"))


def settings_problems(
    folder: Path, settings: Mapping[str, Any], contenders: Mapping[str, Any] = MappingProxyType({})
) -> list[Problem]:
    """Return a problem if the results in a folder have other settings, or another contender with one of the names."""
    try:
        old = _settings_of_results(folder)
    except InvalidInput as error:
        return list(error.problems)
    if not old:
        return []
    changed = [name for name, value in settings.items() if old["settings"].get(name) != value]
    changed += [name for name, value in contenders.items() if old["contenders"].get(name, value) != value]
    expected = f"an empty folder, or one of a bench with the same {', '.join(changed)}"
    return [Problem("out", expected, str(folder))] if changed else []


def _settings_of_results(folder: Path) -> dict[str, Any] | None:
    """Return the settings.json of a folder with results, None if its bench failed before the first picture."""
    settings = _settings(folder)
    return settings if any(folder.glob("results-*.jsonl")) else None


def contenders_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the descriptions of the contenders in a folder, by name. A folder without a bench has none."""
    settings = _settings(folder)
    return settings["contenders"] if settings else {}


def _settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings.json of a bench, None without one. Raises InvalidInput for that of another command."""

    def is_bench(content: dict[str, Any]) -> bool:
        return all(isinstance(content.get(name), dict) for name in ("settings", "contenders"))

    return read_settings(folder, "out", "an empty folder, or one of a bench", is_bench)

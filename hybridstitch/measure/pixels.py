"""PSNR and SSIM of two pictures, over the whole picture and over regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

EQUAL_DB = 60.0
"""Upper bound of PSNR. Closer 8-bit pictures look equal, and a few equal ones (infinite PSNR) would dominate a mean."""
WINDOW, WINDOW_SIGMA = 11, 1.5
"""Side and width of the Gaussian window of SSIM, those of Wang et al., IEEE TIP 2004."""


def psnr(picture: np.ndarray, reference: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, at most 60.

    Args:
        picture: `(height, width, 3)` in 0..1.
        reference: likewise.
        where: bool `(height, width)`; only these pixels count. None of them: NaN.
    """
    difference = (picture.astype(np.float64) - reference) ** 2
    if where is not None:
        difference = difference[where]
    if difference.size == 0:
        return float("nan")
    error = float(difference.mean())
    return EQUAL_DB if error == 0 else min(EQUAL_DB, -10 * float(np.log10(error)))


def ssim(picture: np.ndarray, reference: np.ndarray, where: np.ndarray | None = None) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004), mean over pixels and channels; 1 is equal.

    Args:
        picture: `(height, width, 3)` in 0..1.
        reference: likewise.
        where: bool `(height, width)`; only windows around these pixels count. None of them: NaN.
    """
    return mean_similarity(similarity(picture, reference), where)


def mean_similarity(similar: np.ndarray, where: np.ndarray | None = None) -> float:
    """SSIM from the map of `similarity`, which several regions can share; `where` as for `ssim`."""
    margin = WINDOW // 2
    chosen = similar if where is None else similar[where[margin:-margin, margin:-margin]]
    return float(chosen.mean()) if chosen.size else float("nan")


def similarity(picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Structural similarity at each pixel whose window lies in the picture, `(height - 10, width - 10)`."""
    import torch  # late: a command that only validates its options does not need it
    from torch.nn import functional

    first, second = (
        torch.from_numpy(np.asarray(each, np.float64)).permute(2, 0, 1)[:, None] for each in (picture, reference)
    )
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    line = (line / line.sum())[None, None, None]

    def blur(values: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(functional.conv2d(values, line), line.mT)  # the window is separable

    mean_first, mean_second = blur(first), blur(second)
    variance_first = blur(first * first) - mean_first**2
    variance_second = blur(second * second) - mean_second**2
    covariance = blur(first * second) - mean_first * mean_second
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_first * mean_second + c1) / (mean_first**2 + mean_second**2 + c1)
    structure = (2 * covariance + c2) / (variance_first + variance_second + c2)
    return (luminance * structure).mean(dim=(0, 1)).numpy()


def more_often(large_steps: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """Pixels `(height, width)` of the tokens that the large model rendered more often than the mean token.

    Args:
        large_steps: `(rows, columns)` of a report.
        size: height and width of the picture.

    Returns:
        None if there is no such token, or if the grid does not divide the picture.
    """
    often = large_steps > large_steps.mean()
    rows, columns = (pixels // tokens for pixels, tokens in zip(size, often.shape, strict=True))
    if not often.any() or (rows * often.shape[0], columns * often.shape[1]) != size:
        return None
    return often.repeat(rows, 0).repeat(columns, 1)

"""Regions and seams on pictures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hybridstitch.compare.measures import SEAM_PIXELS, Measures, mask_of, seam, step_across


def test_regions_of_a_mask():
    grid = [[0, 0, 3, 3]] * 4
    mask = mask_of({"mask": {"large_steps": [grid]}}, (64, 64))
    assert mask is not None
    assert mask[:, 32:].all()
    assert not mask[:, :32].any()
    along = seam(mask)
    assert along[:, 32 - SEAM_PIXELS : 32 + SEAM_PIXELS].all()
    assert along.sum() == 64 * 2 * SEAM_PIXELS
    reference = np.full((64, 64, 3), 0.5)
    picture = reference.copy()
    picture[:, 32:] += 0.1
    found = Measures().fidelity(picture, reference, mask)
    assert found["inside_psnr_db"] == pytest.approx(20)
    assert found["outside_psnr_db"] == 60
    assert found["seam_psnr_db"] == pytest.approx(20 + 10 * np.log10(2))
    assert found["seam_contrast"] == pytest.approx(0.1)
    assert np.isnan(step_across(picture, np.ones((64, 64), bool)))
    assert set(Measures().fidelity(picture, reference, None)) == {"psnr_db", "ssim"}


@pytest.mark.parametrize(
    "report", [None, {}, {"mask": 3}, {"mask": {"large_steps": [["x"]]}}, {"mask": {"large_steps": [[[1]]]}}]
)
def test_reports_without_a_usable_mask(report):
    assert mask_of(report, (64, 64)) is None

"""Metrics against values worked out by hand, and intervals against known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from hybridstitch.measure.intervals import by_group
from hybridstitch.measure.perceptual import Perceptual
from hybridstitch.measure.pixels import psnr, ssim


def test_psnr_of_a_known_error():
    white, grey = np.ones((4, 4, 3)), np.full((4, 4, 3), 0.9)
    assert psnr(white, grey) == pytest.approx(20)
    assert psnr(white, white) == 60
    left = np.zeros((4, 4), bool)
    left[:, :2] = True
    half = white.copy()
    half[:, :2] -= 0.1
    assert psnr(half, white, left) == pytest.approx(20)
    assert psnr(half, white, ~left) == 60
    assert np.isnan(psnr(half, white, np.zeros((4, 4), bool)))


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise_and_with_lost_structure():
    rng = np.random.default_rng(0)
    picture = rng.random((32, 32, 3))
    assert ssim(picture, picture) == pytest.approx(1)
    slightly, much = (np.clip(picture + rng.normal(0, by, picture.shape), 0, 1) for by in (0.05, 0.3))
    assert 1 > ssim(slightly, picture) > ssim(much, picture)
    # Flat pictures have no structure: what remains is (2ab + c1) / (a² + b² + c1).
    dark, light = np.full((16, 16, 3), 0.2), np.full((16, 16, 3), 0.4)
    assert ssim(dark, light) == pytest.approx((2 * 0.08 + 1e-4) / (0.04 + 0.16 + 1e-4))


def test_perceptual_distance_minds_structure_more_than_light():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64] / 64
    picture = np.stack([rows, columns, (rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.1], axis=-1)
    distance = Perceptual()
    assert distance(picture, picture) == 0
    slightly, much = (np.clip(picture + rng.normal(0, by, picture.shape), 0, 1) for by in (0.02, 0.2))
    brighter = np.clip(picture + 0.02, 0, 1)
    assert 0 < distance(brighter, picture) < distance(slightly, picture) < distance(much, picture) < 2


def test_intervals_draw_whole_prompts():
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=(40, 1))
    clustered = by_group(prompts + 0.01 * rng.normal(size=(40, 5)))
    width = clustered.high - clustered.low
    assert width == pytest.approx(2 * 1.96 * float(prompts.std()) / np.sqrt(40), rel=0.25)
    assert clustered.low < clustered.value < clustered.high


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    intervals = [by_group(rng.normal(size=(60, 2)), seed=trial) for trial in range(100)]
    covered = np.mean([each.low <= 0 <= each.high for each in intervals])
    assert 0.88 <= covered <= 0.99


def test_intervals_leave_out_what_has_no_value():
    values = np.array([[1.0, 3.0], [np.nan, 2.0], [np.nan, np.nan]])
    assert by_group(values) == by_group(values[:2])
    assert by_group(values).value == 2
    assert np.isnan(by_group(values[2:]).value)


@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_ssim_is_that_of_torchmetrics(size: tuple[int, int]):
    random = np.random.default_rng(0)
    picture = random.random((*size, 3))
    reference = np.clip(picture + random.normal(0, 0.1, picture.shape), 0, 1)
    ours, theirs = (torch.from_numpy(each).permute(2, 0, 1)[None] for each in (picture, reference))
    _, full = structural_similarity_index_measure(ours, theirs, data_range=1.0, return_full_image=True)
    whole_windows = full[0, :, 5:-5, 5:-5]  # it reflects the picture at its borders, we leave them out
    assert ssim(picture, reference) == pytest.approx(float(whole_windows.mean()), abs=1e-9)

"""Intervals and tests against scipy, against formulas, and against simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hybridstitch.measure.statistics import (
    bca,
    binomial,
    holm,
    prompt_means,
    ratio_of_medians,
    sign_flip,
    wilcoxon,
    wilson,
)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_bca_is_scipys_on_the_same_draws(level):
    values = np.random.default_rng(0).gamma(1, size=25)
    ours = bca(values, level=level, draws=3000, seed=1)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=3000, confidence_level=level, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.value, ours.low, ours.high) == pytest.approx((values.mean(), theirs.low, theirs.high))


def test_ratio_of_medians_is_scipys_on_the_same_draws():
    rng = np.random.default_rng(0)
    first, second = rng.gamma(9, size=(2, 31))
    ours = ratio_of_medians(first[:, None], second[:, None], level=0.9, draws=2000, seed=1)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=True,
        n_resamples=2000,
        confidence_level=0.9,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.value == pytest.approx(np.median(first) / np.median(second))


def test_ratio_of_medians_counts_only_pairs_with_both_figures():
    first = np.array([[2.0, 4.0], [6.0, np.nan], [np.nan, np.nan]])
    second = np.array([[1.0, np.nan], [1.0, 9.0], [1.0, 1.0]])
    assert ratio_of_medians(first, second, draws=50).value == 4


def test_bca_covers_the_truth_of_clustered_and_skewed_figures_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(500):
        prompts = rng.gamma(2, size=(40, 1)) + 0.3 * rng.normal(size=(40, 3))
        prompts[rng.random(prompts.shape) < 0.1] = np.nan
        interval = bca(prompts, level=0.9, draws=400, seed=trial)
        covered += interval.low <= 2 <= interval.high
    assert covered / 500 == pytest.approx(0.9, abs=0.04)


def test_bca_draws_prompts_and_not_pictures():
    prompts = np.random.default_rng(3).normal(size=(30, 1)).repeat(8, axis=1)
    clustered, flat = bca(prompts, draws=1000), bca(prompts.ravel(), draws=1000)
    assert clustered.high - clustered.low > 2 * (flat.high - flat.low)


def test_bca_of_equal_figures_of_one_prompt_and_of_none():
    equal = bca(np.full((9, 2), 60.0))
    assert (equal.value, equal.low, equal.high) == (60, 60, 60)
    one = bca(np.array([[1.0, 3.0], [np.nan, np.nan]]))
    assert one.value == 2
    assert np.isnan([one.low, one.high]).all()
    none = bca(np.full((2, 2), np.nan))
    assert np.isnan([none.value, none.low, none.high]).all()
    assert np.isnan(bca(np.empty((0, 2))).value)


def test_means_of_prompts_leave_out_what_is_missing():
    means = prompt_means(np.array([[1.0, 3.0], [5.0, np.nan], [np.nan, np.nan]]))
    assert means.tolist()[:2] == [2, 5]
    assert np.isnan(means[2])


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
@pytest.mark.parametrize("count", [1, 2, 7, 20, 50])
def test_wilcoxon_is_scipys_exact_one(count, alternative):
    differences = np.random.default_rng(count).normal(0.2, 1, count)
    expected = stats.wilcoxon(differences, alternative=alternative, method="exact").pvalue
    assert wilcoxon(differences, alternative) == pytest.approx(expected)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_wilcoxon_with_ties_and_zeros(alternative):
    few = np.array([0.0, 1, 1, 1, -1, 2, -2, 3, 3, 4, np.nan])
    every_sign = stats.PermutationMethod(n_resamples=2**10)
    expected = stats.wilcoxon(few[1:-1], alternative=alternative, method=every_sign).pvalue
    assert wilcoxon(few, alternative) == pytest.approx(expected)
    many = np.random.default_rng(0).normal(0.2, 1, 120).round(1)
    expected = stats.wilcoxon(many, alternative=alternative, method="approx", correction=True).pvalue
    assert wilcoxon(many, alternative) == pytest.approx(expected)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_sign_flips_are_scipys_permutations(alternative):
    rng = np.random.default_rng(4)
    for count, within in ((2, 1e-12), (5, 1e-12), (12, 1e-12), (30, 0.01)):
        differences = rng.normal(0.3, 1, count)
        expected = stats.permutation_test(
            (differences,), np.sum, permutation_type="samples", alternative=alternative, n_resamples=20000, rng=1
        ).pvalue
        assert sign_flip(differences, alternative, draws=20000) == pytest.approx(expected, abs=within)


@pytest.mark.parametrize("test", [wilcoxon, sign_flip])
def test_nothing_to_test_is_no_evidence(test):
    for nothing in ([], [np.nan], [0.0, 0.0, 0.0]):
        assert test(np.array(nothing)) == test(np.array(nothing), "greater") == 1


def test_holm_against_values_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_wilson_is_scipys():
    for successes, trials in ((0, 10), (7, 10), (10, 10), (480, 1000)):
        expected = stats.binomtest(successes, trials).proportion_ci(0.9, method="wilson")
        ours = wilson(successes, trials, level=0.9)
        assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert np.isnan(wilson(0, 0).low)


def test_binomial_is_scipys():
    for successes, trials in ((0, 1), (5, 10), (9, 10), (1, 12), (560, 1000), (0, 0)):
        expected = stats.binomtest(successes, trials).pvalue if trials else 1
        assert binomial(successes, trials) == pytest.approx(expected)

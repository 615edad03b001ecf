"""Power and planning against scipy's exact distributions."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from hybridstitch.compare.verdict.power import power, prompts_needed


@pytest.mark.parametrize("prompts", [10, 30, 200])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(("spread", "effect"), [(0.5, 0.0), (2.0, 0.0), (2.0, -0.5), (2.0, -1.0), (4.0, 1.0)])
def test_power_is_that_of_students_test(prompts, alpha, spread, effect):
    distance = (1 + effect) / spread * math.sqrt(prompts)
    level = math.floor(alpha * 2**prompts) / 2**prompts
    expected = stats.nct.sf(stats.t.isf(level, prompts - 1), prompts - 1, distance)
    assert power(1, spread, prompts, alpha, effect) == pytest.approx(expected, abs=0.005)


def test_prompts_needed_are_the_fewest():
    needed = prompts_needed(0.02, 0.1, target=0.8)
    assert power(0.02, 0.1, needed) >= 0.8 > power(0.02, 0.1, needed - 1)
    assert prompts_needed(0.02, 0.1, target=0.9) > needed
    assert prompts_needed(1, 1e9) is None
    assert prompts_needed(0.02, 0.1, effect=-0.03) is None


def test_few_prompts_and_no_spread():
    assert power(1, 0.001, 4) == 0
    assert power(1, 0, 5) == 1
    assert power(1, 0, 50, effect=-1) == 0
    assert power(1, math.nan, 50) == 0
    assert prompts_needed(1, 0) == 5

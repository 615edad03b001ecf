"""How likely a run is to show that B is as good as A, if it is, and how many prompts that takes."""

from __future__ import annotations

import math

from hybridstitch.measure.statistics import NORMAL

MOST = 10**6


def power(margin: float, spread: float, prompts: int, alpha: float = 0.05, effect: float = 0.0) -> float:
    """The chance that the one-sided test at alpha shows a mean difference above -margin.

    margin: how much worse B may be, above 0. spread: standard deviation between prompts of the differences, each the
    mean over its seeds. effect: the true mean difference, B minus A.
    That of Student's test, to which the sign-flip test comes close, by the normal approximations of its two
    distributions (Abramowitz and Stegun, 26.7.5 and 26.7.10), at the level that so many sign flips can reach: 0 for so
    few prompts that no flip is rare enough.
    """
    flips = 2 ** min(prompts, 50)
    level = math.floor(alpha * flips) / flips
    if not level or math.isnan(spread):
        return 0.0
    if spread == 0:
        return float(margin + effect > 0)
    freedom = prompts - 1
    critical = _student_quantile(1 - level, freedom)
    distance = (margin + effect) / spread * math.sqrt(prompts)
    return NORMAL.cdf((distance - critical * (1 - 1 / (4 * freedom))) / math.sqrt(1 + critical**2 / (2 * freedom)))


def prompts_needed(
    margin: float, spread: float, target: float = 0.8, alpha: float = 0.05, effect: float = 0.0
) -> int | None:
    """The fewest prompts with a power of at least `target`, the rest as for `power`; None: more than a million."""
    low, high = 0, MOST
    if not power(margin, spread, high, alpha, effect) >= target:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(margin, spread, middle, alpha, effect) >= target else (middle, high)
    return high


def _student_quantile(share: float, freedom: int) -> float:
    z = NORMAL.inv_cdf(share)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3

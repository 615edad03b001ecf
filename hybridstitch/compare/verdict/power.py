"""How likely a run is to show that B is as good as A, if it is, and how many prompts that takes."""

from __future__ import annotations

import math

from scipy import stats

MOST = 10**6


def power(margin: float, spread: float, prompts: int, alpha: float = 0.05, effect: float = 0.0) -> float:
    """The chance that the one-sided test at alpha shows a mean difference above -margin.

    margin: how much worse B may be, above 0. spread: standard deviation between prompts of the differences, each the
    mean over its seeds. effect: the true mean difference, B minus A.
    It is the power of Student's test, to which the sign-flip test comes close, at the level that the flips of these
    prompts can reach. It is 0 for too few prompts to reach any level up to alpha.
    """
    flips = 2 ** min(prompts, 50)
    level = math.floor(alpha * flips) / flips
    if not level or math.isnan(spread):
        return 0.0
    if spread == 0:
        return float(margin + effect > 0)
    freedom = prompts - 1
    distance = (margin + effect) / spread * math.sqrt(prompts)
    return float(stats.nct.sf(stats.t.isf(level, freedom), freedom, distance))


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

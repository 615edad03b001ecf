"""The chance that a run shows that B is as good as A, if it is, and the prompts that this takes."""

from __future__ import annotations

import math

from scipy import stats

MOST = 10**6


def power(margin: float, spread: float, prompts: int, alpha: float = 0.05, effect: float = 0.0) -> float:
    """Return the chance that the one-sided test at alpha shows a mean difference above -margin.

    It is the power of Student's test, which the sign-flip test approximates, at the highest level up to alpha that
    the flips of these prompts can reach. Too few prompts reach no such level; the power is then 0.

    Args:
        margin: How much worse B may be, above 0.
        spread: Standard deviation between prompts of the differences, each a mean over its seeds.
        prompts: Number of prompts.
        alpha: Level of the test.
        effect: The true mean difference, B minus A.
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
    """Return the fewest prompts with a power of at least `target`; None above a million. The rest is as for `power`."""
    low, high = 0, MOST
    if not power(margin, spread, high, alpha, effect) >= target:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(margin, spread, middle, alpha, effect) >= target else (middle, high)
    return high

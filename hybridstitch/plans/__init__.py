"""When: at this step, which share of the image tokens does the large model render?"""

from hybridstitch.plans.all_steps import All
from hybridstitch.plans.base import Plan
from hybridstitch.plans.no_steps import Never
from hybridstitch.plans.small_first import SmallFirst
from hybridstitch.plans.staged import Staged

BUILT_IN: tuple[type[Plan], ...] = (All, Never, Staged, SmallFirst)

__all__ = ["BUILT_IN", "All", "Never", "Plan", "SmallFirst", "Staged"]

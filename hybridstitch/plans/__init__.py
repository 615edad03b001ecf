"""When: at this step, which share of the image tokens does the large model render?"""

from hybridstitch.plans.all_steps import AllSteps
from hybridstitch.plans.base import Plan
from hybridstitch.plans.no_steps import NoSteps
from hybridstitch.plans.small_first import SmallFirst
from hybridstitch.plans.staged import Staged

BUILT_IN: tuple[type[Plan], ...] = (AllSteps, NoSteps, Staged, SmallFirst)

__all__ = ["BUILT_IN", "AllSteps", "NoSteps", "Plan", "SmallFirst", "Staged"]

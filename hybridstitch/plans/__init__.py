"""The plan axis: at each step, which share of the image tokens does the large model render?"""

from hybridstitch.plans.adaptive_switch import AdaptiveSwitch
from hybridstitch.plans.all_steps import AllSteps
from hybridstitch.plans.base import Plan
from hybridstitch.plans.error_counter import ErrorCounter
from hybridstitch.plans.explicit_shares import ExplicitShares
from hybridstitch.plans.front import Front
from hybridstitch.plans.no_steps import NoSteps
from hybridstitch.plans.periodic import Periodic
from hybridstitch.plans.routed import Routed
from hybridstitch.plans.sea import Sea
from hybridstitch.plans.small_first import SmallFirst
from hybridstitch.plans.staged import Staged
from hybridstitch.trajectory import Trajectory

BUILT_IN: tuple[type[Plan], ...] = (
    AllSteps,
    NoSteps,
    Staged,
    SmallFirst,
    AdaptiveSwitch,
    Routed,
    ErrorCounter,
    Periodic,
    ExplicitShares,
    Front,
    Sea,
)

__all__ = [
    "BUILT_IN",
    "AdaptiveSwitch",
    "AllSteps",
    "ErrorCounter",
    "ExplicitShares",
    "Front",
    "NoSteps",
    "Periodic",
    "Plan",
    "Routed",
    "Sea",
    "SmallFirst",
    "Staged",
    "Trajectory",
]

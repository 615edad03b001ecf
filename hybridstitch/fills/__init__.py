"""The fill axis: what predicts the tokens that the large model does not render?"""

from hybridstitch.fills.base import Fill
from hybridstitch.fills.corrected import Corrected
from hybridstitch.fills.direction import Direction
from hybridstitch.fills.extrapolate import Extrapolate
from hybridstitch.fills.fitted import Fitted
from hybridstitch.fills.last import Last
from hybridstitch.fills.small import Small
from hybridstitch.fills.small_rest import SmallRest
from hybridstitch.trajectory import Trajectory

BUILT_IN: tuple[type[Fill], ...] = (Small, SmallRest, Last, Extrapolate, Corrected, Direction, Fitted)

__all__ = [
    "BUILT_IN",
    "Corrected",
    "Direction",
    "Extrapolate",
    "Fill",
    "Fitted",
    "Last",
    "Small",
    "SmallRest",
    "Trajectory",
]

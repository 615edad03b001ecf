"""The mask axis: which tokens does the large model render, when it renders only a share of them?"""

from hybridstitch.masks.all_tokens import All
from hybridstitch.masks.attribution import Attribution
from hybridstitch.masks.base import MaskStrategy
from hybridstitch.masks.blend import Blend
from hybridstitch.masks.box import Box
from hybridstitch.masks.dilate import Dilate
from hybridstitch.masks.disagreement import Disagreement
from hybridstitch.masks.drift import Drift
from hybridstitch.masks.edges import Edges
from hybridstitch.masks.minimum_age import MinimumAge
from hybridstitch.masks.random_tokens import Random
from hybridstitch.masks.refresh import Refresh
from hybridstitch.masks.spread import Spread
from hybridstitch.masks.union import Union
from hybridstitch.masks.velocity_change import VelocityChange
from hybridstitch.masks.x0_change import X0Change
from hybridstitch.trajectory import Trajectory

BUILT_IN: tuple[type[MaskStrategy], ...] = (
    VelocityChange,
    Disagreement,
    Attribution,
    X0Change,
    Drift,
    Spread,
    Edges,
    Box,
    Random,
    All,
    Union,
    Blend,
    Dilate,
    MinimumAge,
    Refresh,
)

__all__ = [
    "BUILT_IN",
    "All",
    "Attribution",
    "Blend",
    "Box",
    "Dilate",
    "Disagreement",
    "Drift",
    "Edges",
    "MaskStrategy",
    "MinimumAge",
    "Random",
    "Refresh",
    "Spread",
    "Trajectory",
    "Union",
    "VelocityChange",
    "X0Change",
]

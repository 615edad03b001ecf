"""Where: which tokens does the large model render, when it renders only a share of them?"""

from hybridstitch.masks.all_tokens import All
from hybridstitch.masks.base import MaskStrategy
from hybridstitch.masks.box import Box
from hybridstitch.masks.disagreement import Disagreement
from hybridstitch.masks.random_tokens import Random
from hybridstitch.masks.velocity_change import VelocityChange

BUILT_IN: tuple[type[MaskStrategy], ...] = (VelocityChange, Disagreement, Random, Box, All)

__all__ = ["BUILT_IN", "All", "Box", "Disagreement", "MaskStrategy", "Random", "VelocityChange"]

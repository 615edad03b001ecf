"""Token-wise stitching of a large and a small Stable Diffusion 3 model."""

from hybridstitch.catalogue import Catalogue
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.recipes import Recipe, recipes
from hybridstitch.report import Report
from hybridstitch.serving.answers import ServiceError, ServiceTimeout, ServiceUnreachable
from hybridstitch.serving.client import Client

__version__ = "0.1.0"

__all__ = [
    "Catalogue",
    "Client",
    "HybridStitchPipeline",
    "InvalidInput",
    "Problem",
    "Recipe",
    "Report",
    "ServiceError",
    "ServiceTimeout",
    "ServiceUnreachable",
    "recipes",
]

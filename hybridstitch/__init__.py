"""Token-wise stitching of a large and a small Stable Diffusion 3 model.

Names are imported when they are first used: a client or a health check needs neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridstitch.catalogue import Catalogue
    from hybridstitch.errors import InvalidInput, Problem
    from hybridstitch.pipeline import HybridStitchPipeline
    from hybridstitch.recipe import Recipe, recipes
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

_HOMES = {
    "Catalogue": "catalogue",
    "Client": "serving.client",
    "HybridStitchPipeline": "pipeline",
    "InvalidInput": "errors",
    "Problem": "errors",
    "Recipe": "recipe",
    "Report": "report",
    "ServiceError": "serving.answers",
    "ServiceTimeout": "serving.answers",
    "ServiceUnreachable": "serving.answers",
    "recipes": "recipe",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"hybridstitch.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

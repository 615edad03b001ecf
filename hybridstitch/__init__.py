"""Token-wise stitching of a large and a small Stable Diffusion 3 model.

Names are imported when they are first used: a client or a health check needs neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hybridstitch._version import __version__ as __version__
from hybridstitch.base.quiet import silence_torchao

if TYPE_CHECKING:
    from hybridstitch.errors import InvalidInput, Problem
    from hybridstitch.pipeline import HybridStitchPipeline
    from hybridstitch.recipe.catalogue import Catalogue
    from hybridstitch.recipe.recipe import Recipe, recipes
    from hybridstitch.report import Report
    from hybridstitch.serving.client.client import Client
    from hybridstitch.serving.client.replies import ServiceError, ServiceTimeout, ServiceUnreachable

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

silence_torchao()

_HOMES = {
    "Catalogue": "recipe.catalogue",
    "Client": "serving.client.client",
    "HybridStitchPipeline": "pipeline",
    "InvalidInput": "errors",
    "Problem": "errors",
    "Recipe": "recipe.recipe",
    "Report": "report",
    "ServiceError": "serving.client.replies",
    "ServiceTimeout": "serving.client.replies",
    "ServiceUnreachable": "serving.client.replies",
    "recipes": "recipe.recipe",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"hybridstitch.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

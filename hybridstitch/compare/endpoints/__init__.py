"""The sides of a comparison: predictions URLs and pair folders, asked with the same fields."""

from hybridstitch.compare.endpoints.open import open_endpoint
from hybridstitch.compare.endpoints.spec import Endpoint, Spec, parse_endpoint

__all__ = ["Endpoint", "Spec", "open_endpoint", "parse_endpoint"]

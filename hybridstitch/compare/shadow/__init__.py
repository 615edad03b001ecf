"""Shadow mode: a sampled share of real requests goes to both endpoints."""

from hybridstitch.compare.shadow.shadow import Shadow

__all__ = ["Shadow"]

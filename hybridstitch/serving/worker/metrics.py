"""The worker's own Prometheus metrics: names, labels, and when they count. handler/metrics.yaml declares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

COUNTERS: Mapping[str, tuple[str, ...]] = {"HybridStitchRequests": ("Kind", "Recipe", "Outcome")}
"""Names of the counters, with their labels after `Model` and `Version`."""
HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    "HybridStitchDenoiseSeconds": ("Recipe",),
    "HybridStitchLargeTokenShare": ("Recipe",),
    "HybridStitchQueueSeconds": ("Recipe",),
    "HybridStitchBatchSize": (),
}
"""Names of the histograms, with their labels after `Model` and `Version`."""


class Counter(Protocol):
    """Where a server keeps the metrics of a model."""

    def add(self, name: str, value: float, labels: Sequence[str]) -> None:
        """Add to a counter, or record a value of a histogram.

        Args:
            name: A key of `COUNTERS` or `HISTOGRAMS`.
            value: The value.
            labels: The values of its labels there.
        """


class Metrics:
    """Counts what a worker does."""

    def __init__(self, counter: Counter):
        """counter: The server's place for metrics."""
        self._add = counter.add

    def answered(self, kind: str, recipe: str, outcome: str) -> None:
        """Count an answer.

        Args:
            kind: "prediction" or "explanation"; "none" for a request that could not be parsed.
            recipe: The name of its recipe; "none" for such a request.
            outcome: As in `Response`.
        """
        self._add("HybridStitchRequests", 1, (kind, recipe, outcome))

    def waited(self, recipe: str, seconds: float) -> None:
        """Record the seconds between the client's start and the worker's."""
        self._add("HybridStitchQueueSeconds", seconds, (recipe,))

    def generated(self, pictures: int, reports: Sequence[dict[str, Any]]) -> None:
        """Count pictures that were generated as one tensor, with the report (JSON) of each request."""
        self._add("HybridStitchBatchSize", pictures, ())
        for report in reports:
            recipe = report["recipe"]["name"]
            self._add("HybridStitchLargeTokenShare", report["large_token_share"], (recipe,))
            if "denoise" in report["timing_ms"]:
                self._add("HybridStitchDenoiseSeconds", report["timing_ms"]["denoise"] / 1000, (recipe,))

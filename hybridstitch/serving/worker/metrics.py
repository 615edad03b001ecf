"""The worker's own Prometheus metrics, which handler/metrics.yaml declares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ts.context import Context
from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes

logger = logging.getLogger(__name__)


class Metrics:
    """Counts into the metrics of a batch. With another metrics file it counts nothing and logs one warning."""

    _warned = False

    def __init__(self, context: Context):
        self._context = context
        model = context.manifest.get("model", {}) if context.manifest else {}
        self._model = (context.model_name, model.get("modelVersion", ""))

    def answered(self, kind: str, recipe: str, outcome: str) -> None:
        """Count an answer.

        Args:
            kind: "prediction" or "explanation"; "none" for a request that could not be parsed.
            recipe: The name of its recipe; "none" for such a request.
            outcome: As in `Response`.
        """
        self._add("HybridStitchRequests", MetricTypes.COUNTER, 1, kind, recipe, outcome)

    def waited(self, recipe: str, seconds: float) -> None:
        """Record the seconds between the client's start and the worker's."""
        self._add("HybridStitchQueueSeconds", MetricTypes.HISTOGRAM, seconds, recipe)

    def generated(self, pictures: int, reports: Sequence[dict[str, Any]]) -> None:
        """Count pictures that were generated as one tensor, with the report (JSON) of each request."""
        self._add("HybridStitchBatchSize", MetricTypes.HISTOGRAM, pictures)
        for report in reports:
            recipe = report["recipe"]["name"]
            share = report["large_token_share"]
            self._add("HybridStitchLargeTokenShare", MetricTypes.HISTOGRAM, share, recipe)
            if "denoise" in report["timing_ms"]:
                seconds = report["timing_ms"]["denoise"] / 1000
                self._add("HybridStitchDenoiseSeconds", MetricTypes.HISTOGRAM, seconds, recipe)

    def _add(self, name: str, kind: MetricTypes, value: float, *labels: str) -> None:
        try:
            metric = self._context.metrics.get_metric(name, kind)
            metric.add_or_update(value, [*self._model, *labels])
        except (MetricsCacheKeyError, ValueError):  # not declared, or with other labels
            if not Metrics._warned:
                logger.warning("%s is not in the server's metrics_config as handler/metrics.yaml has it", name)
                Metrics._warned = True

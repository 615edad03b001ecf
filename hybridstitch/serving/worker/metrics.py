"""What the worker counts for Prometheus, beside TorchServe's own metrics; handler/metrics.yaml declares it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ts.context import Context
from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes

logger = logging.getLogger(__name__)


class Metrics:
    """Counts into the metrics of a batch. A server started with another metrics file goes without, and is told once."""

    _told = False

    def __init__(self, context: Context):
        self._context = context
        model = context.manifest.get("model", {}) if context.manifest else {}
        self._model = (context.model_name, model.get("modelVersion", ""))

    def answered(self, kind: str, recipe: str, outcome: str) -> None:
        """One more answer. outcome: see `Answer`.

        kind: prediction or explanation. recipe: its name. Both are "none" for a request that was not understood.
        """
        self._add("HybridStitchRequests", MetricTypes.COUNTER, 1, kind, recipe, outcome)

    def waited(self, recipe: str, seconds: float) -> None:
        """A request that was so long under way before the worker got it."""
        self._add("HybridStitchQueueSeconds", MetricTypes.HISTOGRAM, seconds, recipe)

    def generated(self, pictures: int, reports: Sequence[dict[str, Any]]) -> None:
        """Pictures that were drawn as one tensor, with the report (JSON) of each request."""
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
            if not Metrics._told:
                logger.warning("%s is not in the server's metrics_config as handler/metrics.yaml has it", name)
                Metrics._told = True

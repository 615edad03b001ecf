"""The metrics of all replicas, in the text format of Prometheus and under the names that TorchServe gives them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from hybridstitch.serving.worker.messages import Count
from hybridstitch.serving.worker.metrics import COUNTERS, HISTOGRAMS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of a histogram's buckets: those of TorchServe's client library."""

Labels = tuple[str, ...]


class Counts:
    """Sums of what the replicas report."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, float]] = {name: {} for name in COUNTERS}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {name: {} for name in HISTOGRAMS}

    def add(self, model: str, version: str, counts: Iterable[Count]) -> None:
        """Add what a batch of a model counted."""
        for each in counts:
            labels = (model, version, *each.labels)
            if each.name in COUNTERS:
                values = self._counters[each.name]
                values[labels] = values.get(labels, 0) + each.value
            else:
                self._histograms[each.name].setdefault(labels, _Histogram()).add(each.value)

    def text(self) -> str:
        """Return all of them for Prometheus."""
        lines = []
        for name, values in self._counters.items():
            lines.append(f"# TYPE {name} counter")
            lines += [f"{name}{_shown(COUNTERS[name], labels)} {value!r}" for labels, value in values.items()]
        for name, histograms in self._histograms.items():
            lines.append(f"# TYPE {name} histogram")
            for labels, histogram in histograms.items():
                lines += histogram.lines(name, HISTOGRAMS[name], labels)
        return "\n".join([*lines, ""])


class _Histogram:
    def __init__(self) -> None:
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._buckets[bisect_left(BUCKETS, value)] += 1
        self._sum += value

    def lines(self, name: str, names: Labels, labels: Labels) -> list[str]:
        found, total = [], 0
        for bound, count in zip([*map(str, BUCKETS), "+Inf"], self._buckets, strict=True):
            total += count
            found.append(f"{name}_bucket{_shown(names, labels, {'le': bound})} {total}")
        plain = _shown(names, labels)
        return [*found, f"{name}_count{plain} {total}", f"{name}_sum{plain} {self._sum!r}"]


def _shown(names: Labels, values: Labels, more: Mapping[str, str] | None = None) -> str:
    pairs = dict(zip(("Model", "Version", *names), values, strict=True)) | dict(more or {})
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""What is asked of Prometheus, by the dashboard and the autoscaler: only metrics and labels that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DECLARED = yaml.safe_load((ROOT / "handler" / "metrics.yaml").read_text())["model_metrics"]
OURS = {
    metric["name"]: {*metric["dimensions"], "Hostname"}
    for kind in ("counter", "histogram")
    for metric in DECLARED[kind]
}
HISTOGRAMS = {metric["name"] for metric in DECLARED["histogram"]}
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "hybridstitch.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Every series that the server exposes, with its labels."""
    spec = find_spec("ts")
    assert spec is not None
    assert spec.origin is not None
    shipped = yaml.safe_load((Path(spec.origin).parent / "configs" / "metrics.yaml").read_text())
    found = {
        metric["name"]: {*metric["dimensions"], *(["Hostname"] if side == "model_metrics" else [])}
        for side in ("ts_metrics", "model_metrics")
        for metrics in shipped[side].values()
        for metric in metrics
    }
    for name, dimensions in OURS.items():
        if name in HISTOGRAMS:
            found |= {f"{name}_sum": dimensions, f"{name}_count": dimensions, f"{name}_bucket": {*dimensions, "le"}}
        else:
            found[name] = dimensions
    return found


def nodes(expression: str) -> list[Any]:
    """The syntax tree of a query, flat. Raises ValueError if it is none."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression.replace("$__rate_interval", "5m")), found.append)
    return found


def wrong(expression: str, labels: dict[str, set[str]]) -> Iterator[str]:
    """The metrics in a query that nobody records, and the labels that its metrics do not have."""
    tree = nodes(expression)
    selectors = [node for node in tree if isinstance(node, promql_parser.VectorSelector)]
    yield from (node.name for node in selectors if node.name not in labels)
    for node in selectors:
        known = labels.get(node.name, set())
        yield from (matcher.name for matcher in node.matchers.matchers if matcher.name not in known)
    common = set.intersection(*(labels.get(node.name, set()) for node in selectors))
    for node in tree:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            yield from (label for label in node.modifier.labels if label not in common)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_queries_ask_for_what_is_recorded(expression: str, labels: dict[str, set[str]]) -> None:
    assert list(wrong(expression, labels)) == []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("rate(HybridStitchRequest[5m])", ["HybridStitchRequest"]),
        ("rate(HybridStitchQueueSeconds[5m])", ["HybridStitchQueueSeconds"]),
        ('sum(HybridStitchRequests{model="a"})', ["model"]),
        ("sum by (Recipe) (HybridStitchBatchSize_sum)", ["Recipe"]),
        ("sum by (le) (HybridStitchBatchSize_bucket)", []),
    ],
)
def test_a_wrong_name_is_found(expression: str, found: list[str], labels: dict[str, set[str]]) -> None:
    assert list(wrong(expression, labels)) == found


def test_what_is_no_query_is_refused() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        nodes("sum by (Recipe (HybridStitchRequests)")


def test_every_metric_of_ours_is_shown() -> None:
    assert [name for name in OURS if name not in " ".join(EXPRESSIONS)] == []


def test_the_autoscalers_rule_asks_for_what_is_recorded(labels: dict[str, set[str]]) -> None:
    values = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod="a"')
    scraped = {name: {*found, "namespace", "pod"} for name, found in labels.items()}
    assert list(wrong(query, scraped)) == []
    assert list(wrong(rule["seriesQuery"], scraped)) == []


def test_the_dashboard_can_be_imported_anywhere() -> None:
    """No data source of somebody's own, ids that are unique, and only variables that it defines."""
    assert DASHBOARD["schemaVersion"] >= 36
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert "id" not in DASHBOARD  # of the Grafana that it came from
    sources = {json.dumps(part["datasource"]) for panel in PANELS for part in [panel, *panel["targets"]]}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    defined = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert defined == {"datasource": "datasource", "model": "query"}
    used = re.findall(r"\$\{?(\w+)", " ".join(EXPRESSIONS))
    assert set(used) == {"model", "__rate_interval"}


def test_panels_do_not_overlap_and_say_their_unit() -> None:
    cells = [
        (place["x"] + across, place["y"] + down)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for across in range(place["w"])
        for down in range(place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(across for across, _ in cells) < 24
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)

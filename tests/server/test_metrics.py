"""What Prometheus scrapes, against what the answers reported."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from hybridstitch.base.paths import ROOT
from hybridstitch.serving.client.client import ServiceError
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from hybridstitch.serving.worker.metrics import COUNTERS, HISTOGRAMS
from tests.support.metrics import Samples, scrape, total, wait_for
from tests.support.served import QUICK


def by_recipe(samples: Samples, name: str) -> dict[str, float]:
    """The samples of a metric of the shared model by their label Recipe, over all versions that ever served."""
    counts: dict[str, float] = defaultdict(float)
    for (found, own), value in samples.items():
        labels = dict(own)
        if found == name and labels["Model"] == "hybridstitch" and labels.get("Outcome", "ok") == "ok":
            counts[labels["Recipe"]] += value
    return counts


@pytest.fixture(scope="module")
def counted(server: Server, store: Path, tiny: Path) -> Iterator[str]:
    """A model that nobody else asks."""
    pack(tiny, out=store, name="counted")
    server.register("counted")
    yield "counted"
    server.client.unregister("counted")


def test_metrics_are_what_the_reports_say(server: Server, counted: str) -> None:
    asked = QUICK | {"num_inference_steps": 8, "model": counted}
    reports = [
        server.client.generate(**asked, recipe=name).report for name in ("small", "hybridstitch", "hybridstitch")
    ]
    reports.append(server.client.generate(**asked, recipe="hybridstitch", num_images=3).report)
    with pytest.raises(ServiceError):
        server.client.generate(**asked, recipe="fastest")
    with pytest.raises(ServiceError):
        server.client.generate(**{**asked, "num_inference_steps": 100}, recipe="large", deadline_ms=1)
    samples = wait_for(server, "HybridStitchRequests", 6, Model=counted)

    def requests_of(recipe: str, outcome: str) -> float:
        labels = {"Model": counted, "Version": "1.0", "Recipe": recipe, "Outcome": outcome}
        return total(samples, "HybridStitchRequests", **labels)

    assert requests_of("small", "ok") == 1
    assert requests_of("hybridstitch", "ok") == 3
    assert requests_of("none", "invalid_request") == 1
    assert requests_of("large", "deadline_exceeded") == 1
    stitched = {"Model": counted, "Recipe": "hybridstitch"}
    seconds = sum(report["timing_ms"]["denoise"] for report in reports[1:]) / 1000
    assert total(samples, "HybridStitchDenoiseSeconds_count", **stitched) == 3
    assert total(samples, "HybridStitchDenoiseSeconds_sum", **stitched) == pytest.approx(seconds, abs=1e-3)
    shares = sum(report["large_token_share"] for report in reports[1:])
    assert total(samples, "HybridStitchLargeTokenShare_sum", **stitched) == pytest.approx(shares, abs=1e-3)
    assert total(samples, "HybridStitchBatchSize_sum", Model=counted) == 1 + 1 + 1 + 3
    assert total(samples, "ts_inference_requests_total", model_name=counted) == 6


def test_a_request_has_one_recipe_in_all_metrics(server: Server) -> None:
    """The name in its report, also where the request names a speed and the tuned pair chooses the recipe."""
    asked = QUICK | {"num_inference_steps": 4, "response_format": "json"}
    headers = {"Authorization": f"Bearer {server.token()}", "x-request-start": f"t={time.time() - 1:.3f}"}
    names = ("HybridStitchRequests", "HybridStitchQueueSeconds_count", "HybridStitchLargeTokenShare_count")
    names += ("HybridStitchDenoiseSeconds_count",)
    for choice in ({"speed": 1}, {"speed": 2}, {"recipe": "large"}, {"recipe": {"plan": {"type": "all"}}}, {}):
        before = {name: by_recipe(scrape(server), name) for name in names}
        url = f"{server.url}/predictions/hybridstitch"
        answer = requests.post(url, json=asked | choice, headers=headers, timeout=60)
        recipe = answer.json()["report"]["recipe"]["name"]
        for name in names:
            outcome = {"Outcome": "ok"} if name == names[0] else {}
            after = wait_for(server, name, sum(before[name].values()) + 1, Model="hybridstitch", **outcome)
            grown = {label for label, value in by_recipe(after, name).items() if value > before[name].get(label, 0)}
            assert grown == {recipe}, (name, choice)


def test_queue_time_counts_from_the_clients_start(server: Server, counted: str) -> None:
    before = total(scrape(server), "HybridStitchQueueSeconds_sum", Model=counted)
    headers = {"Authorization": f"Bearer {server.token()}", "x-request-start": f"t={time.time() - 2:.3f}"}
    assert requests.post(f"{server.url}/predictions/{counted}", json=QUICK, headers=headers, timeout=60).ok
    samples = wait_for(server, "HybridStitchQueueSeconds_sum", before + 2, Model=counted)
    assert total(samples, "HybridStitchQueueSeconds_sum", Model=counted) - before == pytest.approx(2, abs=0.5)


def test_every_declared_metric_of_ours_is_scraped_and_none_is_lost_from_the_shipped_ones(
    server: Server, counted: str
) -> None:
    import ts

    declared = yaml.safe_load((ROOT / "handler" / "metrics.yaml").read_text())
    ours = {each["name"] for kind in declared["model_metrics"].values() for each in kind}
    scraped = {name.removesuffix("_count") for name, _ in scrape(server)}
    assert {name for name in ours if name.startswith("HybridStitch")} <= scraped
    shipped = yaml.safe_load((Path(ts.__file__).parent / "configs" / "metrics.yaml").read_text())
    for group in ("ts_metrics", "model_metrics"):
        for kind, metrics in shipped[group].items():
            assert {each["name"] for each in metrics} <= {each["name"] for each in declared[group][kind]}


def test_the_metrics_file_declares_what_the_worker_counts() -> None:
    declared = yaml.safe_load((ROOT / "handler" / "metrics.yaml").read_text())["model_metrics"]
    for kind, ours in (("counter", COUNTERS), ("histogram", HISTOGRAMS)):
        labels = {each["name"]: each["dimensions"] for each in declared[kind]}
        assert labels == {name: ["Model", "Version", *more] for name, more in ours.items()}

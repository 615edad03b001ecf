"""The report as one page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridstitch.compare.measured import MeasuredSample
from hybridstitch.compare.measures import REGIONS, TITLES
from hybridstitch.compare.report.pictures import TIMES, panels, shown
from hybridstitch.compare.verdict.margins import Margins
from hybridstitch.html.document import as_float, between, figure, render_page
from hybridstitch.html.plots import intervals, latency


def render(report: Mapping[str, Any], margins: Margins, folder: Path, samples: Sequence[MeasuredSample]) -> str:
    """The page of a report (`report.make_report`), with pictures from the folder."""
    verdict = report["verdict"]
    fidelity = {each["name"]: each for each in verdict["fidelity"] if each["pairs"]}
    regional = {name: each for name, each in fidelity.items() if name.startswith(tuple(REGIONS))}
    against = {"not faster", "inferior"} & set(report["summary"].split(", "))
    groups = {
        name: [
            {"text": sample.text, "seed": sample.seed, "note": _note(sample), "panels": panels(sample, folder)}
            for sample in group
        ]
        for name, group in shown(samples)
    }
    return render_page(
        "comparison.html",
        report=report,
        tone="good" if report["passed"] else "bad" if against else "open",
        figures=_figures(verdict),
        latency_plot=latency({side: each.get("seconds", []) for side, each in report["latency"].items()}),
        measure_plot=_measure_plot,
        titles=TITLES,
        quality=verdict["quality"] if any(each["pairs"] for each in verdict["quality"]) else [],
        whole=[each for each in fidelity.values() if each not in regional.values()],
        regional=regional,
        regions=REGIONS,
        groups=groups,
        facts=_facts(report, margins),
    )


def _figures(verdict: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and a small line, for the cards of the page."""
    percent = f"{100 * verdict['level']:g} %"
    speedup, failed = verdict["speedup"], verdict["failures"]
    found = [("Speed-up", f"{figure(speedup['value'], '.2f')}{TIMES}", f"{percent}: {between(speedup, '.2f')}")]
    for each in (*verdict["quality"], *verdict["fidelity"]):
        if each["name"] in ("psnr_db", "ssim", "distance", "quality") and each["pairs"]:
            same = each["name"] == "psnr_db" and verdict["no_difference"]
            value = "identical" if same else figure(each["value"], ".3g")
            below = "every pixel of all pairs" if same else f"{percent}: {between(each, '.3g')}"
            found.append((TITLES[each["name"]], value, below))
    below = f"{verdict['prompts']} prompts; failed: A {failed['a']}, B {failed['b']}"
    return [*found, ("Pairs", str(verdict["pairs"]), below)]


def _measure_plot(found: Sequence[Mapping[str, Any]]) -> str:
    """Means and intervals of the measures that have a limit."""
    rows = [
        (TITLES[each["name"]], *(as_float(each[name]) for name in ("value", "low", "high")), each["limit"])
        for each in found
        if each["limit"] is not None
    ]
    return intervals(rows)


def _note(sample: MeasuredSample) -> str:
    near = "identical" if sample.identical else ", ".join(
        f"{TITLES[name].partition(',')[0]} {sample.fidelity[name]:.3g}{' dB' if name == 'psnr_db' else ''}"
        for name in ("psnr_db", "ssim", "distance")
        if name in sample.fidelity
    )  # fmt: skip
    return f"{near or sample.note or ''} · A {sample.a.seconds:.2f} s, B {sample.b.seconds:.2f} s"


def _facts(report: Mapping[str, Any], margins: Margins) -> dict[str, Mapping[str, Any]]:
    """Settings by title: of each endpoint, of the comparison, and of each run."""
    facts = {
        side.upper(): {name: value for name, value in each.items() if name not in ("text", "made")} | each["made"]
        for side, each in report["endpoints"].items()
    }
    settings = {name: value for name, value in report["settings"].items() if name not in ("a", "b", "prompts")}
    limits = {name: each.limit for name, each in margins.judged.items()}
    others = {name: getattr(margins, name) for name in ("min_speedup", "alpha", "extra_failures")}
    facts["Settings, declared before the run"] = {**settings, "margins": {**limits, **others}}
    for number, each in enumerate(report["times"]["sessions"], 1):
        begun = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each["begun"]))
        facts[f"Run {number}, {begun}"] = {"machine": each["machine"], **each["versions"]}
    return facts

"""The report as one page that needs nothing else: no network, no script, light and dark, desk and phone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hybridstitch.compare.measured import MeasuredPair
from hybridstitch.compare.report.page_measures import TITLES, metric_table, region_table
from hybridstitch.compare.report.pictures import TIMES, panels, shown
from hybridstitch.compare.verdict.fixed import Margins
from hybridstitch.html.document import between, definitions, document, figure, table, tiles
from hybridstitch.html.plots import latency


def render(report: Mapping[str, Any], margins: Margins, folder: Path, pairs: Sequence[MeasuredPair]) -> str:
    """The page of a report (`report.make_report`), with pictures from the folder."""
    sections = [
        _head(report),
        *(f'<p class="warning" role="note">{escape(each)}</p>' for each in report["warnings"]),
        _tiles(report),
        _section("Latency", _latency(report)),
        _section("Quality of each picture on its own", _quality(report)),
        _section("Nearness of B's pictures to A's", _fidelity(report)),
        _section("What people preferred", _preference(report["preference"])),
        _section("Pairs", _pairs(pairs, folder)),
        _section("Failures", _failures(report)),
        _section("How this was measured", _settings(report, margins)),
    ]
    return document("A/B comparison", "".join(sections))


def _section(title: str, body: str) -> str:
    name = title.lower().replace(" ", "-").replace("'", "")
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}</section>\n' if body else ""


def _head(report: Mapping[str, Any]) -> str:
    against = {"not faster", "inferior"} & set(report["summary"].split(", "))
    tone = "good" if report["passed"] else "bad" if against else "open"
    gate = "B passes" if report["passed"] else "B does not pass"
    sides = "".join(
        f'<div><dt><span class="chip {side}">{side.upper()}</span> {role}</dt>'
        f"<dd><code>{escape(report['endpoints'][side]['endpoint'])}</code></dd></div>"
        for side, role in (("a", "in use"), ("b", "candidate"))
    )
    return (
        f'<header class="{tone}"><p class="eyebrow">A/B comparison · {gate}</p>'
        f"<h1>{escape(report['summary'][0].upper() + report['summary'][1:])}</h1>"
        f'<p class="lead">{escape(report["sentence"])}</p><dl class="sides">{sides}</dl></header>\n'
    )


def _tiles(report: Mapping[str, Any]) -> str:
    verdict = report["verdict"]
    percent = f"{100 * verdict['level']:g} %"
    found = [
        (
            "Speed-up",
            f"{figure(verdict['speedup']['value'], '.2f')}{TIMES}",
            f"{percent}: {between(verdict['speedup'], '.2f')}",
        )
    ]
    for each in (*verdict["quality"], *verdict["fidelity"]):
        if each["name"] in ("psnr_db", "ssim", "distance", "quality") and each["pairs"]:
            same = each["name"] == "psnr_db" and verdict["no_difference"]
            value = "identical" if same else figure(each["value"], ".3g")
            below = "every pixel of all pairs" if same else f"{percent}: {between(each, '.3g')}"
            found.append((TITLES[each["name"]], value, below))
    failed = verdict["failures"]
    found.append(
        ("Pairs", str(verdict["pairs"]), f"{verdict['prompts']} prompts; failed: A {failed['a']}, B {failed['b']}")
    )
    return tiles(found)


def _latency(report: Mapping[str, Any]) -> str:
    sides = {side: each.get("seconds", []) for side, each in report["latency"].items()}
    names = {"p5": "5 %", "p25": "25 %", "p50": "median", "p75": "75 %", "p95": "95 %", "p99": "99 %", "mean": "mean"}
    rows = [
        [
            f'<span class="chip {side}">{side.upper()}</span>',
            *(f"{each[name]:.3f}" for name in names),
            str(each["answers"]),
        ]
        for side, each in report["latency"].items()
        if each["answers"]
    ]
    says = "<p>Seconds from sending a request to the last byte of its answer, failures left out.</p>"
    return says + latency(sides) + table(["", *names.values(), "answers"], rows) if rows else ""


def _quality(report: Mapping[str, Any]) -> str:
    found = report["verdict"]["quality"]
    if not any(each["pairs"] for each in found):
        return ""
    measured = report["settings"]["measures"]["quality"]
    says = f"<p>{escape(report['sentences']['quality'])} "
    says += f"Measured by <code>{escape(measured)}</code>, higher is better.</p>"
    return says + metric_table(found, report["verdict"]["no_difference"])


def _fidelity(report: Mapping[str, Any]) -> str:
    found = [each for each in report["verdict"]["fidelity"] if each["pairs"]]
    whole = [each for each in found if each["name"] in TITLES and each["name"] != "seam_contrast"]
    regions = [each for each in found if each not in whole]
    if not whole:
        return ""
    same = report["verdict"]["no_difference"]
    says = f"<p>{escape(report['sentences']['fidelity'])}</p>"
    body = says + metric_table(whole, same)
    if report["verdict"]["identical"] and not same:
        count = report["verdict"]["identical"]
        body += f'<p class="small">{count} pairs are identical; each counts as 60 dB in the mean.</p>'
    if regions:
        body += (
            "<h3>By region</h3><p>The mask: tokens that the large model rendered more often than the average token.</p>"
        )
        body += region_table(regions, same)
    return body


def _preference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    share = {name: None if value is None else 100 * value for name, value in found["share_b"].items()}
    return (
        f"<p>Of {found['judged']} judgements, the order of the pictures hidden, "
        f"B was preferred in {found['b']}, A in {found['a']}, and {found['tie']} found no difference. "
        f"B's share without ties: {figure(share['value'], '.0f')} % "
        f"(95 % interval by Wilson {between(share, '.0f')} %); p of no preference {found['p']:.2g}, exact.</p>"
    )


def _pairs(pairs: Sequence[MeasuredPair], folder: Path) -> str:
    found = []
    for name, group in shown(pairs):
        figures = []
        for pair in group:
            each = panels(pair, folder)
            images = "".join(
                f'<div><img src="{source}" alt="{escape(caption)}: {escape(pair.text, quote=True)}" loading="lazy">'
                f"<span>{escape(caption)}</span></div>"
                for caption, source in each
            )
            figures.append(
                f'<figure><div class="strip of{len(each)}">{images}</div>'
                f"<figcaption><q>{escape(pair.text)}</q>, seed {pair.seed}. {escape(_said(pair))}</figcaption></figure>"
            )
        found.append(f"<h3>{name}</h3>{''.join(figures)}")
    return "".join(found)


def _said(pair: MeasuredPair) -> str:
    near = "identical" if pair.identical else ", ".join(
        f"{TITLES[name].partition(',')[0]} {pair.fidelity[name]:.3g}{' dB' if name == 'psnr_db' else ''}"
        for name in ("psnr_db", "ssim", "distance")
        if name in pair.fidelity
    )  # fmt: skip
    return f"{near or pair.note or ''} · A {pair.a.seconds:.2f} s, B {pair.b.seconds:.2f} s"


def _failures(report: Mapping[str, Any]) -> str:
    found = report["failures"]
    says = f"<p>{escape(report['sentences']['failures'])}</p>"
    rows = [
        [
            f'<span class="chip {each["side"]}">{each["side"].upper()}</span>',
            f"<q>{escape(each['text'])}</q>",
            str(each["seed"]),
            f"{each['seconds']:.2f}",
            f"<code>{escape(each['error'])}</code>",
        ]
        for each in found
    ]
    failed = says + (table(["", "prompt", "seed", "seconds", "what happened"], rows) if rows else "")
    unmeasured = [
        [name, f"<q>{escape(pair['text'])}</q>", str(pair["seed"]), f"<code>{escape(error)}</code>"]
        for pair in report["pairs"]
        for name, error in pair["unmeasured"].items()
    ]
    heads = ["measure", "prompt", "seed", "what happened"]
    return failed + (f"<h3>Pairs that could not be measured</h3>{table(heads, unmeasured)}" if unmeasured else "")


def _settings(report: Mapping[str, Any], margins: Margins) -> str:
    sections = []
    for side, each in report["endpoints"].items():
        known = {name: value for name, value in each.items() if name not in ("text", "made")} | each["made"]
        sections.append(f"<h3>{side.upper()}</h3>{definitions(known)}")
    settings = {name: value for name, value in report["settings"].items() if name not in ("a", "b", "prompts")}
    sections.append(
        f"<h3>Settings, declared before the run</h3>{definitions({**settings, 'margins': _margins(margins)})}"
    )
    for run, each in enumerate(report["times"]["sessions"], 1):
        begun = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(each["begun"]))
        sections.append(f"<h3>Run {run}, {begun}</h3>{definitions({'machine': each['machine'], **each['versions']})}")
    rerun = f"<h3>Run it again</h3><pre><code>{escape(report['rerun'])}</code></pre>"
    return rerun + f"<details><summary>Endpoints, settings and versions</summary>{''.join(sections)}</details>"


def _margins(margins: Margins) -> dict[str, float]:
    limits = {name: each.limit for name, each in margins.judged.items() if each.limit is not None}
    return {
        **limits,
        "min_speedup": margins.min_speedup,
        "alpha": margins.alpha,
        "extra_failures": margins.extra_failures,
    }

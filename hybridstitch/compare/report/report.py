"""The report of a comparison: report.json with stable keys, pairs.csv, and the page."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hybridstitch.base.journal import write_whole
from hybridstitch.compare.comparison import Comparison
from hybridstitch.compare.measured import MeasuredPair
from hybridstitch.compare.measures import NAMES
from hybridstitch.compare.report.page import render
from hybridstitch.compare.review.preference import preference
from hybridstitch.compare.run.folder import Folder
from hybridstitch.compare.run.order import SIDES
from hybridstitch.compare.verdict.fixed import decide
from hybridstitch.measure.intervals import without_nan

FORMAT = 1
"""Of report.json; raised when a key changes its meaning."""
MADE = ("recipe", "num_inference_steps", "guidance_scale", "width", "height", "flops_share", "large_token_share")
"""What is shown of an endpoint's own report."""
COLUMNS = ("seconds", "started", "session", "picture", "sha256", "error")
"""Of each side in pairs.csv."""


def write_report(comparison: Comparison, folder: Folder, pairs: Sequence[MeasuredPair]) -> dict[str, Any]:
    """Write all three from the pairs, in the order of the run; the content of report.json."""
    report = make_report(comparison, folder, pairs)
    write_whole(folder.path / "report.json", json.dumps(report, indent=1, allow_nan=False))
    write_whole(folder.path / "pairs.csv", pairs_csv(pairs))
    write_whole(folder.path / "report.html", render(report, comparison.margins, folder.path, pairs))
    return report


def make_report(comparison: Comparison, folder: Folder, pairs: Sequence[MeasuredPair]) -> dict[str, Any]:
    """The content of report.json. Raises InvalidInput if there is no pair."""
    verdict = decide([pair.judged() for pair in pairs], comparison.margins)
    # Intervals of a run that stopped when it liked would be too narrow: then the sequential answer counts.
    progress = comparison.progress(pairs) if comparison.until_decided else None
    sessions = folder.sessions()
    report = {
        "format": FORMAT,
        "passed": progress.passed is True if progress else verdict.passed,
        "summary": (progress or verdict).summary(),
        "sentence": progress.sentence() if progress else verdict.sentence(),
        "verdict": verdict.to_dict(),
        "sequential": progress and progress.to_dict(),
        "sentences": {
            "quality": verdict.quality_sentence(),
            "fidelity": verdict.fidelity_sentence(),
            "failures": verdict.failure_sentence(),
        },
        "endpoints": {side: _endpoint(comparison, side, sessions, pairs) for side in SIDES},
        "latency": {side: _latency(side, pairs) for side in SIDES},
        "preference": preference(folder.path, pairs),
        "warnings": _warnings(comparison, pairs),
        "failures": [_failure(side, pair) for pair in pairs for side in SIDES if getattr(pair, side).error],
        "pairs": [_pair(pair) for pair in pairs],
        "planned_pairs": len(comparison.cells),
        "settings": comparison.to_dict(),
        "rerun": rerun(comparison, str(folder.path), sessions[-1]["endpoints"] if sessions else {}),
        "times": {"sessions": sessions},
    }
    return without_nan(report)


def pairs_csv(pairs: Sequence[MeasuredPair]) -> str:
    """One line for each pair; PSNR of identical pictures is `inf`, what was not measured is empty."""
    metrics = [name for name in NAMES if name != "quality"]
    sides = [f"{column}_{side}" for side in SIDES for column in COLUMNS]
    head = ["prompt", "text", "seed", "identical", *metrics, "quality_a", "quality_b", *sides, "note"]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(head)
    for pair in pairs:
        measured = [_csv_number(_shown(pair, name)) for name in metrics]
        own = [_csv_number(pair.quality_a), _csv_number(pair.quality_b)]
        rest = [_csv_text(getattr(getattr(pair, side), column)) for side in SIDES for column in COLUMNS]
        cells = [pair.prompt, _csv_text(pair.text), pair.seed, int(pair.identical), *measured, *own, *rest]
        notes = [pair.note, *(f"{name} failed: {error}" for name, error in pair.unmeasured.items())]
        writer.writerow([*cells, _csv_text("; ".join(filter(None, notes)))])
    return buffer.getvalue()


def rerun(comparison: Comparison, out: str, described: Mapping[str, Mapping[str, Any]]) -> str:
    """The command that makes the same comparison, as a line for a shell.

    described: what each endpoint said of itself. Of tokens and headers the command has the options, without the values.
    """
    load, measures = comparison.load, comparison.measures
    words = ["hybridstitch", "compare", "--a", comparison.a, "--b", comparison.b, "--prompts", comparison.prompts_from]
    for side, told in described.items():
        words += [f"--key-file-{side}", "KEY_FILE"] if told.get("token") else []
        for name in told.get("headers", ()):
            words += [f"--header-{side}", f"{name}: @FILE"]
    words += ["--count", str(len(comparison.prompts)), "--seeds", ",".join(map(str, comparison.seeds)), "--out", out]
    words += ["--rate", f"{load.rate:g}"] if load.rate else ["--concurrency", str(load.concurrency)]
    words += ["--block", str(load.block_size), "--pause", f"{load.pause:g}", "--warmup", str(comparison.warmup)]
    words += ["--order-seed", str(comparison.order_seed), "--timeout", f"{comparison.timeout:g}"]
    for name, value in comparison.limits.items():
        words += ["--limit", f"{name}={value:g}"]
    words += [] if comparison.margin is None else ["--margin", f"{comparison.margin:g}"]
    words += ["--min-speedup", f"{comparison.speedup:g}", "--alpha", f"{comparison.alpha:g}"]
    words += ["--distance", measures.distance] if measures.distance else []
    words += ["--quality", measures.quality] if measures.quality else []
    for module in measures.modules:
        words += ["--extra-module", module]
    return shlex.join([*words, *(["--until-decided"] if comparison.until_decided else [])])


def _endpoint(
    comparison: Comparison, side: str, sessions: list[dict[str, Any]], pairs: Sequence[MeasuredPair]
) -> dict[str, Any]:
    """What was asked, what the endpoint is, and what its first report says of how it draws."""
    told: Mapping[str, Any] = next((row.report for pair in pairs if (row := getattr(pair, side)).report), {})
    made = {name: told[name] for name in MADE if name in told}
    described = sessions[-1]["endpoints"][side] if sessions else {}
    return {"endpoint": getattr(comparison, side), **asdict(comparison.specs[side]), **described, "made": made}


def _latency(side: str, pairs: Sequence[MeasuredPair]) -> dict[str, Any]:
    """Seconds of the answers that held a picture."""
    seconds = [row.seconds for pair in pairs if (row := getattr(pair, side)).error is None]
    if not seconds:
        return {"answers": 0}
    quantiles = {f"p{percent}": float(np.percentile(seconds, percent)) for percent in (5, 25, 50, 75, 95, 99)}
    return {"answers": len(seconds), "mean": float(np.mean(seconds)), **quantiles, "seconds": seconds}


def _warnings(comparison: Comparison, pairs: Sequence[MeasuredPair]) -> list[str]:
    found = []
    silent = [side.upper() for side, spec in comparison.specs.items() if not spec.sends_seed]
    if silent:
        names = " and ".join(silent)
        found.append(
            f"No seed is sent to {names}: its pictures have noise of their own, so nearness says nothing here."
        )
    if notes := [pair.note for pair in pairs if pair.note]:
        found.append(f"{len(notes)} of {len(pairs)} pairs have no fidelity: {notes[0]}.")
    for name in ("distance", "quality"):
        if errors := [pair.unmeasured[name] for pair in pairs if name in pair.unmeasured]:
            counts = " Each counts against B." if name in comparison.margins.judged else ""
            found.append(f"The measure of {name} failed on {len(errors)} of {len(pairs)} pairs ({errors[0]}).{counts}")
    if len(pairs) < len(comparison.cells):
        found.append(f"The run ended after {len(pairs)} of {len(comparison.cells)} pairs.")
    if comparison.until_decided:
        found.append("This run was to stop once it was decided: the answer allows for that, the figures below do not.")
    return found


def _failure(side: str, pair: MeasuredPair) -> dict[str, Any]:
    row = getattr(pair, side)
    where = {"side": side, "prompt": pair.prompt, "text": pair.text, "seed": pair.seed}
    return {**where, "error": row.error, "seconds": row.seconds}


def _pair(pair: MeasuredPair) -> dict[str, Any]:
    figures = {name: value for name in pair.fidelity if not math.isinf(value := _shown(pair, name) or 0.0)}
    sides = {side: {name: getattr(getattr(pair, side), name) for name in COLUMNS} for side in SIDES}
    own = {"quality_a": pair.quality_a, "quality_b": pair.quality_b}
    known = {"prompt": pair.prompt, "text": pair.text, "seed": pair.seed, "identical": pair.identical}
    notes = {"note": pair.note, "unmeasured": dict(pair.unmeasured)}
    return {**known, "fidelity": {**dict.fromkeys(pair.fidelity), **figures}, **own, **sides, **notes}


def _shown(pair: MeasuredPair, name: str) -> float | None:
    """A figure as it is: the PSNR of identical pictures has no bound."""
    return math.inf if pair.identical and name.endswith("psnr_db") else pair.fidelity.get(name)


def _csv_number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _csv_text(value: Any) -> Any:
    """Text that a spreadsheet takes for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

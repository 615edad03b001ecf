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
from hybridstitch.compare.measured import MeasuredSample
from hybridstitch.compare.measures import NAMES
from hybridstitch.compare.report.page import render
from hybridstitch.compare.review.preference import preference
from hybridstitch.compare.run.folder import Folder
from hybridstitch.compare.run.order import SIDES
from hybridstitch.compare.verdict.fixed import decide
from hybridstitch.measure.intervals import without_nan

FORMAT = 1
"""Version of report.json; it grows when a key changes its meaning."""
MADE = ("recipe", "num_inference_steps", "guidance_scale", "width", "height", "flops_share", "large_token_share")
"""Fields of an endpoint's report that are shown."""
COLUMNS = ("seconds", "started", "session", "picture", "sha256", "error")
"""Columns of each side in pairs.csv."""


def write_report(comparison: Comparison, folder: Folder, samples: Sequence[MeasuredSample]) -> dict[str, Any]:
    """Write report.json, pairs.csv and the page, and return the content of report.json.

    samples: In the order of the run.
    """
    report = make_report(comparison, folder, samples)
    write_whole(folder.path / "report.json", json.dumps(report, indent=1, allow_nan=False))
    write_whole(folder.path / "pairs.csv", pairs_csv(samples))
    write_whole(folder.path / "report.html", render(report, comparison.margins, folder.path, samples))
    return report


def make_report(comparison: Comparison, folder: Folder, samples: Sequence[MeasuredSample]) -> dict[str, Any]:
    """The content of report.json. Raises InvalidInput if there is no sample."""
    verdict = decide([sample.judged() for sample in samples], comparison.margins)
    # A run with optional stopping has intervals that are too narrow, so the sequential result counts instead.
    progress = comparison.progress(samples) if comparison.until_decided else None
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
        "endpoints": {side: _endpoint(comparison, side, sessions, samples) for side in SIDES},
        "latency": {side: _latency(side, samples) for side in SIDES},
        "preference": preference(folder.path, samples),
        "warnings": _warnings(comparison, samples),
        "failures": [_failure(side, sample) for sample in samples for side in SIDES if getattr(sample, side).error],
        "pairs": [_sample(sample) for sample in samples],
        "planned_pairs": len(comparison.cells),
        "settings": comparison.to_dict(),
        "rerun": rerun(comparison, str(folder.path), sessions[-1]["endpoints"] if sessions else {}),
        "times": {"sessions": sessions},
    }
    return without_nan(report)


def pairs_csv(samples: Sequence[MeasuredSample]) -> str:
    """Return one line for each sample. PSNR of identical pictures is `inf`; a value that was not measured is empty."""
    measures = [name for name in NAMES if name != "quality"]
    sides = [f"{column}_{side}" for side in SIDES for column in COLUMNS]
    head = ["prompt", "text", "seed", "identical", *measures, "quality_a", "quality_b", *sides, "note"]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(head)
    for sample in samples:
        measured = [_csv_number(_shown(sample, name)) for name in measures]
        own = [_csv_number(sample.quality_a), _csv_number(sample.quality_b)]
        rest = [_csv_text(getattr(getattr(sample, side), column)) for side in SIDES for column in COLUMNS]
        cells = [sample.prompt, _csv_text(sample.text), sample.seed, int(sample.identical), *measured, *own, *rest]
        notes = [sample.note, *(f"{name} failed: {error}" for name, error in sample.unmeasured.items())]
        writer.writerow([*cells, _csv_text("; ".join(filter(None, notes)))])
    return buffer.getvalue()


def rerun(comparison: Comparison, out: str, described: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the shell command that runs the same comparison. Tokens and headers have no values in it.

    described: The description of each endpoint by side.
    """
    load, measures = comparison.load, comparison.measures
    words = ["hybridstitch", "compare", "--a", comparison.a, "--b", comparison.b, "--prompts", comparison.prompts_from]
    for side, known in described.items():
        words += [f"--key-file-{side}", "KEY_FILE"] if known.get("token") else []
        for name in known.get("headers", ()):
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
    comparison: Comparison, side: str, sessions: list[dict[str, Any]], samples: Sequence[MeasuredSample]
) -> dict[str, Any]:
    """The declared endpoint, its description, and the settings that its first report names."""
    first: Mapping[str, Any] = next((row.report for sample in samples if (row := getattr(sample, side)).report), {})
    made = {name: first[name] for name in MADE if name in first}
    described = sessions[-1]["endpoints"][side] if sessions else {}
    return {"endpoint": getattr(comparison, side), **asdict(comparison.specs[side]), **described, "made": made}


def _latency(side: str, samples: Sequence[MeasuredSample]) -> dict[str, Any]:
    """Seconds of the answers that held a picture."""
    seconds = [row.seconds for sample in samples if (row := getattr(sample, side)).error is None]
    if not seconds:
        return {"answers": 0}
    quantiles = {f"p{percent}": float(np.percentile(seconds, percent)) for percent in (5, 25, 50, 75, 95, 99)}
    return {"answers": len(seconds), "mean": float(np.mean(seconds)), **quantiles, "seconds": seconds}


def _warnings(comparison: Comparison, samples: Sequence[MeasuredSample]) -> list[str]:
    found = []
    silent = [side.upper() for side, spec in comparison.specs.items() if not spec.sends_seed]
    if silent:
        names = " and ".join(silent)
        found.append(
            f"No seed is sent to {names}: its pictures start from different noise, so fidelity means nothing here."
        )
    if notes := [sample.note for sample in samples if sample.note]:
        found.append(f"{len(notes)} of {len(samples)} pairs have no fidelity: {notes[0]}.")
    for name in ("distance", "quality"):
        if errors := [sample.unmeasured[name] for sample in samples if name in sample.unmeasured]:
            counts = " Each counts against B." if name in comparison.margins.judged else ""
            found.append(
                f"The measure of {name} failed on {len(errors)} of {len(samples)} pairs ({errors[0]}).{counts}"
            )
    if len(samples) < len(comparison.cells):
        found.append(f"The run ended after {len(samples)} of {len(comparison.cells)} pairs.")
    if comparison.until_decided:
        found.append("This run was to stop once it was decided: the answer allows for that, the figures below do not.")
    return found


def _failure(side: str, sample: MeasuredSample) -> dict[str, Any]:
    row = getattr(sample, side)
    where = {"side": side, "prompt": sample.prompt, "text": sample.text, "seed": sample.seed}
    return {**where, "error": row.error, "seconds": row.seconds}


def _sample(sample: MeasuredSample) -> dict[str, Any]:
    figures = {name: value for name in sample.fidelity if not math.isinf(value := _shown(sample, name) or 0.0)}
    sides = {side: {name: getattr(getattr(sample, side), name) for name in COLUMNS} for side in SIDES}
    own = {"quality_a": sample.quality_a, "quality_b": sample.quality_b}
    known = {"prompt": sample.prompt, "text": sample.text, "seed": sample.seed, "identical": sample.identical}
    notes = {"note": sample.note, "unmeasured": dict(sample.unmeasured)}
    return {**known, "fidelity": {**dict.fromkeys(sample.fidelity), **figures}, **own, **sides, **notes}


def _shown(sample: MeasuredSample, name: str) -> float | None:
    """Return a measure as it is reported: the PSNR of identical pictures is infinite."""
    return math.inf if sample.identical and name.endswith("psnr_db") else sample.fidelity.get(name)


def _csv_number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _csv_text(value: Any) -> Any:
    """Return a cell. Text that a spreadsheet would read as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value

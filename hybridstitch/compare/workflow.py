"""Runs a comparison and writes its report."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hybridstitch._version import __version__
from hybridstitch.compare.comparison import Comparison
from hybridstitch.compare.endpoints.spec import Credentials, Endpoint
from hybridstitch.compare.measured import Measurer
from hybridstitch.compare.report.report import write_report
from hybridstitch.compare.run.folder import Folder
from hybridstitch.compare.run.run import Run
from hybridstitch.compare.run.warmup import open_warm
from hybridstitch.measure.host import machine


def run(comparison: Comparison, out: Path, credentials: Credentials) -> dict[str, Any]:
    """Request the answers that the folder lacks, then write the report.

    Returns:
        The content of report.json.

    Raises:
        InvalidInput: for a folder of another comparison, for endpoints that do not answer the warm-up, and for
            measures that fail on its pictures.
    """
    folder = Folder(out)
    with folder.opened(comparison.to_dict()):
        measurer = Measurer(folder, comparison.prompts, comparison.measures)

        def decided() -> bool:
            return comparison.until_decided and comparison.progress(measurer.samples(comparison.cells)).finished

        if not (folder.complete().issuperset(comparison.cells) or decided()):
            endpoints = _endpoints(comparison, credentials)
            requests = Run(
                endpoints, comparison.prompts, comparison.seeds, folder, comparison.load, comparison.order_seed
            )
            requests.go(session(), decided if comparison.until_decided else None)
    return report(comparison, folder, measurer)


def report(comparison: Comparison, folder: Folder, measurer: Measurer | None = None) -> dict[str, Any]:
    """Write report.html, report.json and pairs.csv from the kept answers; returns the content of report.json."""
    measurer = measurer or Measurer(folder, comparison.prompts, comparison.measures)
    kept = Comparison.from_dict(comparison.to_dict())
    return write_report(kept, folder, measurer.samples(comparison.cells))


def _endpoints(comparison: Comparison, credentials: Credentials) -> dict[str, Endpoint]:
    """Both sides, warmed up, after the measures were tried on their pictures."""
    found, pictures = open_warm(
        comparison.specs,
        credentials,
        comparison.timeout,
        comparison.prompts[0],
        comparison.seeds[0],
        comparison.warmup,
    )
    comparison.measures.check()
    if pictures:
        comparison.measures.try_out(pictures["a"], pictures["b"], comparison.prompts[0])
    return found


def session() -> dict[str, Any]:
    """Return the description of this process and its machine, for the report."""
    return {
        "begun": time.time(),
        "machine": machine(),
        "versions": {
            "hybridstitch": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "pillow", "requests", "torch")},
        },
    }

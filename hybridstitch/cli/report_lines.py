"""The report of a generation as lines of text."""

from __future__ import annotations

from typing import Any


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return a table of the stages of a report in JSON form, between two lines of totals."""
    size = f"{report['width']}x{report['height']}"
    adapters = "".join(f", {name} at {scale:g}" for name, scale in (report.get("lora") or {}).items())
    lines = [f"recipe {report['recipe']['name']}, seed {report['seed']}, {size}{adapters}", ""]
    lines.append(f"{'stage':<8}{'steps':>7}{'ms':>10}{'tokens by large':>17}{'by small':>10}")
    for stage in report.get("stages", []):
        row = f"{stage['name']:<8}{stage['steps']:>7}{stage['ms']:>10.1f}"
        lines.append(f"{row}{stage['large_tokens']:>17}{stage['small_tokens']:>10}")
    times = ", ".join(f"{name} {ms:.0f} ms" for name, ms in report["timing_ms"].items())
    asked, taken = report["num_inference_steps"], report.get("steps_taken", report["num_inference_steps"])
    steps = f"{taken} steps" if taken == asked else f"{taken} of the {asked} requested steps"
    shares = f"{steps}; the large model rendered {report['large_token_share']:.1%} of their token-steps"
    lines += ["", f"{shares}; {report['flops_share']:.1%} of the FLOPs that it would need alone for all {asked}", times]
    return lines + [f"warning: {warning}" for warning in report["warnings"]]

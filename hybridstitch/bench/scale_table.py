"""The result of `bench --scale` as Markdown tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from hybridstitch.base.markdown import markdown_table
from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.bench.scale import ScaleResult, dense_seconds, planned_bytes
from hybridstitch.bench.scale_cases import COMPILED, DENSE, EAGER, SUBSET, Case, Setting
from hybridstitch.bench.scale_clock import Clock
from hybridstitch.bench.scale_measure import Timing
from hybridstitch.bench.scale_models import SCALES, SHAPES
from hybridstitch.bench.scale_predict import LAUNCH_BOUND, Costs
from hybridstitch.bench.scale_run import PLAIN, Whole
from hybridstitch.measure.host import machine
from hybridstitch.model.memory import LARGE

_GIB = 2**30


def markdown(result: ScaleResult) -> str:
    """Return the whole page."""
    options = result.options
    layers = ", ".join(
        f"{name} {count} of {SHAPES[name]['num_layers']} layers" for name, count in result.layers.items()
    )
    lines = [
        f"{machine()}; {str(options.dtype).removeprefix('torch.')} on {options.device}.",
        f"Random weights; layers: {layers}. Clock: {Clock(options.device).name}.",
        f"Starting an operation takes {1e6 * result.launch:.1f} µs.",
    ]
    if not result.is_whole:
        lines.append("Times of forwards and recipes are those of the whole models, scaled by FLOPs.")
    parts = ["\n".join(lines) + "\n", "## Forwards\n\n" + _forwards(result)]
    if COMPILED in options.modes:
        parts.append("## Compilation\n\n" + _compilation(result))
    if result.measured.left_out:
        parts.append(f"Left out, for want of time or memory:\n\n{_left_out(result.measured.left_out)}")
    parts.append("## Memory of whole models, computed\n\n" + _memory(result))
    for setting in result.predictions:
        parts.append(f"## Recipes, {setting.label}, predicted\n\n" + _recipes(result, setting))
    for setting, found in result.whole.items():
        title = "measured" if result.is_whole else "a rehearsal with the first layers"
        parts.append(f"## Whole pictures, {setting.label}, {title}\n\n" + _whole(found))
    return "\n".join(parts)


def _left_out(cases: Sequence[Case]) -> str:
    """Return a line for each model and setting."""
    lines = []
    for (model, setting), group in groupby(cases, lambda case: (case.model, case.setting)):
        lines.append(f"- {model}, {setting.label}: {'; '.join(case.label for case in group)}\n")
    return "".join(lines)


def _forwards(result: ScaleResult) -> str:
    rows = []
    for each in forwards(result):
        share, of_eager = each["of_dense"], each["of_eager"]
        started = "" if each["operations"] is None else f"{each['operations']}"
        rows.append(
            [
                *(each["model"], each["forward"], f"{each['pixels']} px, {each['pictures']}", each["mode"]),
                f"{each['seconds']:.4g} ({each['range'][0]:.4g} to {each['range'][1]:.4g})",
                "" if share is None else f"{share:.3f}",
                "" if share is None else f"{each['of_dense_by_flops']:.3f}",
                f"{each['tflops_per_second']:.3g}",
                "" if of_eager is None else f"{of_eager:.3f}",
                f"{started}{' (bound)' if each['launch_bound'] else ''}",
                f"{each['peak_bytes'] / _GIB:.2f}",
            ]
        )
    heads = ["model", "forward", "size, pictures", "mode", "s (range)", "of dense", "by FLOPs", "TFLOP/s", "of eager"]
    return markdown_table([*heads, "operations", "peak, GiB"], rows)


def _compilation(result: ScaleResult) -> str:
    """Return what compiling took, and what was not compiled."""
    if result.measured.compile_error:
        return f"Nothing compiled: {result.measured.compile_error}\n"
    words = "Seconds by which the first run of a forward is longer. They are not part of the times above.\n"
    settings = result.options.settings(COMPILED)
    if len(settings) < len(result.options.settings(EAGER)):
        words += f"On a CPU, {settings[0].label} is all that is measured.\n"
    words += "Cond or uncond alone is not compiled.\n"
    rows = [
        [case.model, case.label, case.setting.label, f"{timing.compiling:.1f}"]
        for case, timing in result.measured.timings.items()
        if case.setting.mode == COMPILED
    ]
    return words + "\n" + markdown_table(["model", "forward", "size, pictures", "compiling, s"], rows)


def _memory(result: ScaleResult) -> str:
    names = SCALES[result.options.scale]
    rows = [
        [
            f"{each['pixels']} px, {each['pictures']}",
            *(f"{each['kv_bytes'][name] / _GIB:.2f}" for name in names),
            f"{each['planned_bytes'] / _GIB:.1f}",
        ]
        for each in memory(result)
    ]
    heads = ["size, pictures", *(f"K/V of {name}, GiB" for name in names), "in all, with weights, GiB"]
    return markdown_table(heads, rows)


def _recipes(result: ScaleResult, setting: Setting) -> str:
    rows = []
    for each in recipes(result):
        if (each["pixels"], each["pictures"], each["mode"]) == (setting.pixels, setting.pictures, setting.mode):
            rows.append(
                [
                    each["recipe"],
                    _between([1 / cost for cost in each["cost"]], "x"),
                    _between(each["speedup"], "x"),
                    _between(each["seconds"], " s"),
                    ", ".join(each["launch_bound"]),
                ]
            )
    return markdown_table(["recipe", "by FLOPs", "by time", "denoising", "bound by launches"], rows)


def _between(values: list[float], unit: str) -> str:
    low, high = sorted(f"{value:.2f}" for value in values) if values[0] < 10 else (f"{value:.1f}" for value in values)
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _whole(found: list[Whole] | Any) -> str:
    plain = next(each for each in found if each.contender == PLAIN)
    rows = [
        [
            each.contender,
            f"{each.median:.3g} ({min(each.seconds):.3g} to {max(each.seconds):.3g})",
            f"{plain.median / each.median:.2f}x",
            f"{1 / each.cost:.2f}x" if each.cost else "",
            f"{each.peak / _GIB:.2f}",
        ]
        for each in found
    ]
    return markdown_table(["contender", "s (range)", "speed-up", "by FLOPs", "peak, GiB"], rows)


def forwards(result: ScaleResult) -> list[dict[str, Any]]:
    """Return the forwards as JSON.

    `of_dense` compares a forward with the same model's dense one in the same mode, and `of_eager` a compiled one with
    the same one in eager mode.
    """
    found, timings = [], result.measured.timings
    for case, timing in timings.items():
        is_eager = case.setting.mode == EAGER
        dense = timings.get(Case(case.model, DENSE, case.setting))
        eager = timings.get(replace(case, setting=replace(case.setting, mode=EAGER)))
        costs = _costs(result, case.setting)
        found.append(
            {
                "model": case.model,
                "forward": case.label,
                "share": case.share,
                **_setting(case.setting),
                "layers": timing.layers,
                "seconds": timing.full,
                "range": list(timing.range),
                "runs": timing.seconds,
                "flops": case.flops(),
                "tflops_per_second": case.flops() / timing.full / 1e12,
                **_of_dense(timing, dense),
                "of_eager": None if is_eager or eager is None else timing.full / eager.full,
                "compile_seconds": None if is_eager else timing.compiling,
                "operations": result.operations[case.model][case.kind == SUBSET] if is_eager else None,
                "launch_bound": costs.is_launch_bound(case),
                "peak_bytes": timing.peak,
            }
        )
    return found


def _of_dense(timing: Timing, dense: Timing | None) -> dict[str, float | None]:
    """Time and FLOPs relative to the dense forward, of the layers that ran."""
    if dense is None or dense.case == timing.case:
        return {"of_dense": None, "of_dense_by_flops": None}
    flops = timing.case.flops(timing.layers) / dense.case.flops(dense.layers)
    return {"of_dense": timing.full / timing.scale / (dense.full / dense.scale), "of_dense_by_flops": flops}


def recipes(result: ScaleResult) -> list[dict[str, Any]]:
    """Return the predictions as JSON."""
    found = []
    for setting, predictions in result.predictions.items():
        plain = result.options.steps * dense_seconds(result, setting)
        for each in predictions:
            found.append(
                {
                    "recipe": each.contender,
                    **_setting(setting),
                    "cost": list(each.cost),
                    "seconds": list(each.seconds),
                    "speedup": [plain / seconds for seconds in each.seconds],
                    "forwards": dict(each.forwards),
                    "launch_bound": list(each.launch_bound),
                }
            )
    return found


def memory(result: ScaleResult) -> list[dict[str, Any]]:
    """Return the memory of whole models as JSON."""
    options = result.options
    dtype = str(options.dtype).removeprefix("torch.")
    pair = dict(zip(SCALES[options.scale], (LARGE, SMALL_FOLDER), strict=True))
    found = []
    for setting in (Setting(pixels, pictures) for pixels in options.sizes for pictures in options.batches):
        kv = {
            name: setting.pictures * result.plan.kv_bytes(part, dtype, setting.pixels, setting.pixels)
            for name, part in pair.items()
        }
        planned = planned_bytes(result.plan, setting, options.dtype)
        found.append({**_setting(setting), "kv_bytes": kv, "planned_bytes": planned})
    return found


def as_json(result: ScaleResult) -> dict[str, Any]:
    """Return the content of scale.json."""
    options = result.options
    return {
        "machine": machine(),
        "scale": options.scale,
        "device": str(options.device),
        "dtype": str(options.dtype).removeprefix("torch."),
        "clock": Clock(options.device).name,
        "steps": options.steps,
        "modes": list(options.modes),
        "layers": dict(result.layers),
        "launch_seconds": result.launch,
        "launch_bound_from": LAUNCH_BOUND,
        "forwards": forwards(result),
        "compile_error": result.measured.compile_error,
        "left_out": [_named(case) for case in result.measured.left_out],
        "memory": memory(result),
        "recipes": recipes(result),
        "pictures": [
            {
                "contender": each.contender,
                **_setting(setting),
                "whole_models": result.is_whole,
                "runs": each.seconds,
                "cost": each.cost,
                "peak_bytes": each.peak,
            }
            for setting, found in result.whole.items()
            for each in found
        ],
    }


def _costs(result: ScaleResult, setting: Setting) -> Costs:
    return Costs(result.measured.timings, *SCALES[result.options.scale], setting, result.operations, result.launch)


def _setting(setting: Setting) -> dict[str, Any]:
    return {"pixels": setting.pixels, "pictures": setting.pictures, "mode": setting.mode}


def _named(case: Case) -> str:
    return f"{case.model}, {case.label}, {case.setting.label}"

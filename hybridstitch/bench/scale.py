"""Measures SD3 models in their true shapes, without weights, and predicts what recipes gain on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import SD3Transformer2DModel

from hybridstitch.bench.contenders import Contender
from hybridstitch.bench.scale_cases import COMPILED, DENSE, EAGER, Case, Setting, cases_of
from hybridstitch.bench.scale_clock import launches
from hybridstitch.bench.scale_measure import Measured, measure
from hybridstitch.bench.scale_models import SCALES, SHAPES, cut, memory_plan, random_transformer
from hybridstitch.bench.scale_predict import Costs, Prediction, predict
from hybridstitch.bench.scale_run import Whole, whole_pictures
from hybridstitch.model.compile import compile_blocks
from hybridstitch.model.free_memory import free_memory
from hybridstitch.model.memory import MemoryPlan

CUT_LAYERS = 2
"""Layers of each model where the whole one would take too much memory or time."""
TURNS: Mapping[tuple[str, ...], Mapping[str, tuple[tuple[float, float], ...]]] = {
    (EAGER,): {"cpu": ((0.75, 1.0),), "cuda": ((0.5, 1.0),)},
    (EAGER, COMPILED): {"cpu": ((0.55, 0.65), (0.95, 1.0)), "cuda": ((0.25, 0.5), (0.75, 1.0))},
}
"""By modes and kind of device, where the forwards and the whole pictures of each mode end, as shares of the time."""
REHEARSAL = (256, 6)
"""Largest size, and steps, of the whole pictures of cut models."""


@dataclass(frozen=True)
class ScaleOptions:
    """What to measure.

    Attributes:
        scale: a key of `SCALES`.
        sizes: sides of the square pictures.
        batches: pictures of a forward.
        device: where it runs.
        dtype: of the weights.
        steps: of the large model's schedule.
        repeats: runs of each forward, and pictures of each contender.
        seconds: time for everything.
        modes: `(EAGER,)` or `(EAGER, COMPILED)`.
    """

    scale: str
    sizes: Sequence[int]
    batches: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    steps: int
    repeats: int
    seconds: float
    modes: tuple[str, ...] = (EAGER, COMPILED)

    def settings(self, mode: str) -> list[Setting]:
        """The settings of a mode. A CPU has time for the cheapest compiled one alone."""
        found = [Setting(pixels, pictures, mode) for pictures in sorted(self.batches) for pixels in self.sizes]
        if mode == COMPILED and self.device.type == "cpu":
            return [Setting(min(self.sizes), min(self.batches), mode)]
        return found


@dataclass(frozen=True)
class ScaleResult:
    """What was measured.

    Attributes:
        options: what was asked.
        layers: by model, the layers that ran.
        operations: by model, operations of a dense and of a subset forward, by whether it is on a subset.
        launch: seconds of starting one operation.
        plan: memory of the whole models.
        measured: the forwards.
        predictions: by setting, the recipes.
        whole: whole pictures by setting; of cut models a rehearsal.
    """

    options: ScaleOptions
    layers: Mapping[str, int]
    operations: Mapping[str, Mapping[bool, int]]
    launch: float
    plan: MemoryPlan
    measured: Measured
    predictions: Mapping[Setting, Sequence[Prediction]]
    whole: Mapping[Setting, Sequence[Whole]]

    @property
    def is_whole(self) -> bool:
        """Whether all layers ran."""
        return all(count == SHAPES[name]["num_layers"] for name, count in self.layers.items())


def run_scale(
    options: ScaleOptions,
    contenders: Sequence[Contender],
    generated: Sequence[Contender],
    progress: Callable[[str], None],
) -> ScaleResult:
    """Measure the forwards, predict recipes from them, and generate whole pictures.

    Args:
        options: what to measure.
        contenders: whose time is predicted.
        generated: that generate whole pictures.
        progress: receives a line now and then.
    """
    began = time.monotonic()
    large, small = SCALES[options.scale]
    plan = memory_plan(large, small, options.dtype)
    fits = _whole_models_fit(options, plan)
    shapes = {name: cut(SHAPES[name], SHAPES[name]["num_layers"] if fits else CUT_LAYERS) for name in (large, small)}
    progress(f"{large} and {small} with random weights, {_layers_in_words(shapes)}")
    operations, launch = {}, 0.0
    for name in shapes:
        operations[name], launch = launches(SHAPES[name], options.device)
    models = {name: random_transformer(shape, options.dtype, options.device) for name, shape in shapes.items()}
    measured: Measured | None = None
    whole: dict[Setting, list[Whole]] = {}
    turns = TURNS[options.modes]
    for mode, ends in zip(options.modes, turns.get(options.device.type, turns["cuda"]), strict=True):
        forwards_end, whole_end = (began + share * options.seconds for share in ends)
        if mode == COMPILED:
            for model in models.values():
                compile_blocks(model)
        cases = list(cases_of(large, small, options.settings(mode)))
        speed = None if measured is None else measured.speed
        found = measure(models, cases, options.repeats, forwards_end, progress, speed)
        measured = found if measured is None else measured.with_more(found)
        if not found.compile_error:
            pair = (models[large], models[small])
            whole |= _whole_pictures(pair, large, options, mode, generated, whole_end, found.speed, progress)
    assert measured is not None
    predictions = {}
    for setting in dict.fromkeys(case.setting for case in measured.timings):
        costs = Costs(measured.timings, large, small, setting, operations, launch)
        if costs.complete:
            predictions[setting] = [predict(each, costs, options.steps) for each in contenders]
    layers = {name: shape["num_layers"] for name, shape in shapes.items()}
    return ScaleResult(options, layers, operations, launch, plan, measured, predictions, whole)


def _whole_pictures(
    pair: tuple[SD3Transformer2DModel, SD3Transformer2DModel],
    name: str,
    options: ScaleOptions,
    mode: str,
    generated: Sequence[Contender],
    deadline: float,
    speed: float,
    progress: Callable[[str], None],
) -> dict[Setting, list[Whole]]:
    is_whole = pair[0].config.num_layers == SHAPES[name]["num_layers"]
    setting, steps = options.settings(mode)[0], options.steps
    if not is_whole:
        setting, steps = Setting(min(REHEARSAL[0], *options.sizes), 1, mode), REHEARSAL[1]
        generated = [Contender(each.name, each.recipe, steps, each.solver, each.origin) for each in generated]
    repeats = options.repeats if is_whole else 1
    found = whole_pictures(*pair, generated, setting, steps, repeats, deadline, speed, progress)
    return {setting: found} if found else {}


def _whole_models_fit(options: ScaleOptions, plan: MemoryPlan) -> bool:
    """Whether all layers fit into the memory of a GPU. A CPU would take too long for them."""
    if options.device.type != "cuda":
        return False
    needed = planned_bytes(plan, Setting(max(options.sizes), 1), options.dtype)
    return free_memory(str(options.device)) >= needed


def planned_bytes(plan: MemoryPlan, setting: Setting, dtype: torch.dtype) -> int:
    """Bytes of weights, K/V cache of the large model, and activations."""
    name = str(dtype).removeprefix("torch.")
    pictures = setting.pictures * plan.picture_bytes(name, setting.pixels, setting.pixels)
    return sum(plan.weight_bytes(name).values()) + pictures


def _layers_in_words(shapes: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{shape['num_layers']} of {SHAPES[name]['num_layers']} layers" for name, shape in shapes.items())


def dense_seconds(result: ScaleResult, setting: Setting) -> float:
    """Seconds of a dense forward of the large model."""
    return result.measured.timings[Case(SCALES[result.options.scale][0], DENSE, setting)].full

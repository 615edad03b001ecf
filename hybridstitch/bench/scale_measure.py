"""Times the forwards of `bench --scale`, as many as fit into a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median
from typing import Self

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from hybridstitch.bench.scale_cases import CACHED, COMPILED, HALF, SUBSET, Case, Setting
from hybridstitch.bench.scale_clock import Clock, peak_bytes, reset_peak
from hybridstitch.bench.scale_models import LATENT_PIXELS, TEXT_TOKENS
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import cached_attention

GUIDANCE = 4.5
CAUTION = 1.3
"""A forward is started only if this many times its estimated seconds are left."""
_PROBE = 0.1
"""Share of the tokens of the first forward, which measures the speed of the machine."""
_COMPILING = 60.0
"""Seconds that compiling a forward is expected to take, before one has been compiled."""


@dataclass
class Timing:
    """The seconds of one forward.

    Attributes:
        case: the forward.
        layers: layers of the model that ran, the first ones.
        seconds: of each run, of these layers.
        peak: peak memory in bytes, see `peak_bytes`.
        compiling: seconds, by the clock on the wall, by which the first run of a compiled forward was longer.
    """

    case: Case
    layers: int
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    compiling: float = 0.0

    @property
    def scale(self) -> float:
        """FLOPs of the whole model over those of the layers that ran."""
        return self.case.flops() / self.case.flops(self.layers)

    @property
    def full(self) -> float:
        """Median seconds of the whole model: measured if all layers ran, otherwise scaled by FLOPs."""
        return self.scale * median(self.seconds)

    @property
    def range(self) -> tuple[float, float]:
        """The shortest and the longest run, in seconds of the whole model."""
        return self.scale * min(self.seconds), self.scale * max(self.seconds)


@dataclass(frozen=True)
class Measured:
    """The result of `measure`.

    Attributes:
        timings: by case, those that ran.
        left_out: the forwards for which time or memory did not suffice, or that could not be compiled.
        speed: FLOPs a second, all threads together, by the clock on the wall.
        compile_error: why forwards could not be compiled; empty if they could.
    """

    timings: Mapping[Case, Timing]
    left_out: Sequence[Case]
    speed: float
    compile_error: str = ""

    def with_more(self, other: Measured) -> Measured:
        """Both together; the speed is this one's."""
        left_out, error = [*self.left_out, *other.left_out], self.compile_error or other.compile_error
        return Measured({**self.timings, **other.timings}, left_out, self.speed, error)


def measure(
    models: Mapping[str, SD3Transformer2DModel],
    cases: Sequence[Case],
    repeats: int,
    deadline: float,
    progress: Callable[[str], None],
    speed: float | None = None,
) -> Measured:
    """Run every case in turn, up to `repeats` times or until the deadline.

    The first round goes through all cases, so that each that fits has one run. Later rounds repeat those. The models
    must be compiled if the cases are.

    Args:
        models: by name, transformers on one device.
        cases: what to run, the most important first. Subsets follow the case that fills their cache.
        repeats: rounds.
        deadline: `time.monotonic()` at which it ends. No forward is started that would end later by its FLOPs.
        progress: receives a line for each case.
        speed: FLOPs a second, if they are known.
    """
    device = next(iter(models.values())).device
    clock = Clock(device)
    timings: dict[Case, Timing] = {}
    left_out: list[Case] = []
    error = ""
    with torch.no_grad():
        speed = speed or _probe(models, cases[0])
        for number in range(repeats):
            chosen = list(timings) if number else cases
            for (_, name), group in groupby(chosen, lambda case: (case.setting, case.model)):
                with Rig(models[name]) as rig:
                    for case in group:
                        timing = Timing(case, models[name].config.num_layers)
                        flops = case.flops(timing.layers)
                        longest = CAUTION * flops / speed + _compiling_to_come(case, timings)
                        if error or time.monotonic() + longest > deadline or not rig.can_run(case):
                            left_out += [] if number else [case]
                            continue
                        reset_peak(device)
                        try:
                            seconds, compiling, wall = _timed(rig, case, clock, is_first=not number)
                        except torch.OutOfMemoryError:
                            left_out.append(case)
                            continue
                        except TorchDynamoException as raised:  # no compiler on this machine, for example
                            error = " ".join(str(raised).partition("\n\n")[0].split())
                            left_out.append(case)
                            continue
                        timing = timings.setdefault(case, timing)
                        timing.seconds.append(seconds)
                        timing.compiling = max(timing.compiling, compiling)
                        timing.peak = max(timing.peak, peak_bytes(device))
                        speed = (speed + flops / max(wall, 1e-9)) / 2
                        if not number:
                            progress(f"{name}, {case.label}, {case.setting.label}: {timing.full:.3g} s")
    return Measured(timings, left_out, speed, error)


def _timed(rig: Rig, case: Case, clock: Clock, is_first: bool) -> tuple[float, float, float]:
    """Return the seconds of a case, those by which compiling made its first run longer, and of all the rest.

    The last two are by the clock on the wall.
    """
    run, first = rig.prepare(case), 0.0
    is_to_compile = is_first and case.setting.mode == COMPILED
    if clock.device.type != "cpu" or is_to_compile:
        first = clock.wall_seconds(run)  # it also chooses kernels
    began = time.monotonic()
    seconds = clock.seconds(run)
    wall = time.monotonic() - began
    compiling = max(0.0, first - wall) if is_to_compile else 0.0
    return seconds, compiling, wall + first - compiling


def _compiling_to_come(case: Case, timings: Mapping[Case, Timing]) -> float:
    """Seconds that compiling a case is expected to take: none if it is as another one that ran but for its size."""
    alike = any((known.model, known.kind) == (case.model, case.kind) for known in timings)
    if case.setting.mode != COMPILED or alike:
        return 0.0
    return max((each.compiling for each in timings.values()), default=_COMPILING)


def _probe(models: Mapping[str, SD3Transformer2DModel], case: Case) -> float:
    """FLOPs a second of a small forward. The first one, which allocates memory, does not count."""
    probe = Case(case.model, HALF, Setting(max(64, round(case.setting.pixels * _PROBE / 16) * 16), 1))
    with Rig(models[case.model]) as rig:
        run = rig.prepare(probe)
        run()
        seconds = Clock(models[case.model].device).wall_seconds(run)
    return probe.flops(models[case.model].config.num_layers) / seconds


class Rig:
    """A transformer with random inputs. It keeps the cache that subsets need; a context manager frees it."""

    def __init__(self, transformer: SD3Transformer2DModel):
        self._transformer = transformer
        self._models: dict[bool, GuidedModel] = {}
        self._filled: Setting | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for model in self._models.values():
            model.release()

    def can_run(self, case: Case) -> bool:
        """Whether the cache is filled, if the case needs it."""
        return case.kind != SUBSET or self._filled == case.setting

    def prepare(self, case: Case) -> Callable[[], Tensor]:
        """Create the inputs, and return a function that runs the forward."""
        cached = case.kind in (CACHED, SUBSET)
        latents, timestep, tokens = self._inputs(case)
        model = self._model(cached, case.setting)

        def run() -> Tensor:
            with cached_attention(self._transformer) if cached else nullcontext():
                if case.kind == HALF:
                    return model.conditional(latents, timestep)
                found = model(latents, timestep, tokens if case.kind == SUBSET else None)
            self._filled = case.setting if cached else self._filled
            return found

        return run

    def _model(self, cached: bool, setting: Setting) -> GuidedModel:
        if cached not in self._models:
            config, rows = self._transformer.config, 2 * setting.pictures
            context = self._random(rows, TEXT_TOKENS, config.joint_attention_dim)
            pooled = self._random(rows, config.pooled_projection_dim)
            self._models[cached] = GuidedModel(self._transformer, context, pooled, GUIDANCE, cached)
        return self._models[cached]

    def _inputs(self, case: Case) -> tuple[Tensor, Tensor, Tensor]:
        device, side = self._transformer.device, case.setting.pixels // LATENT_PIXELS
        latents = self._random(case.setting.pictures, self._transformer.config.in_channels, side, side)
        tokens = torch.randperm(case.image_tokens, device=device)[: case.rendered].sort().values
        return latents, torch.tensor(500.0, device=device), tokens.expand(case.setting.pictures, -1)

    def _random(self, *axes: int) -> Tensor:
        return torch.randn(axes, device=self._transformer.device, dtype=self._transformer.dtype)

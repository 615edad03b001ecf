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

from hybridstitch.bench.scale_cases import CACHED, HALF, SUBSET, Case, Setting
from hybridstitch.bench.scale_clock import Clock, peak_bytes, reset_peak
from hybridstitch.bench.scale_models import LATENT_PIXELS, TEXT_TOKENS
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import cached_attention

GUIDANCE = 4.5
CAUTION = 1.3
"""A forward is started only if this many times its estimated seconds are left."""
_PROBE = 0.1
"""Share of the tokens of the first forward, which measures the speed of the machine."""


@dataclass
class Timing:
    """The seconds of one forward.

    Attributes:
        case: the forward.
        layers: layers of the model that ran, the first ones.
        seconds: of each run, of these layers.
        peak: peak memory in bytes, see `peak_bytes`.
    """

    case: Case
    layers: int
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

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
        left_out: the forwards for which time or memory did not suffice.
        speed: FLOPs a second, all threads together, by the clock on the wall.
    """

    timings: Mapping[Case, Timing]
    left_out: Sequence[Case]
    speed: float


def measure(
    models: Mapping[str, SD3Transformer2DModel],
    cases: Sequence[Case],
    repeats: int,
    deadline: float,
    progress: Callable[[str], None],
) -> Measured:
    """Run every case in turn, up to `repeats` times or until the deadline.

    The first round goes through all cases, so that each that fits has one run. Later rounds repeat those.

    Args:
        models: by name, transformers on one device.
        cases: what to run, the most important first. Subsets follow the case that fills their cache.
        repeats: rounds.
        deadline: `time.monotonic()` at which it ends. No forward is started that would end later by its FLOPs.
        progress: receives a line for each case.
    """
    device = next(iter(models.values())).device
    clock = Clock(device)
    timings: dict[Case, Timing] = {}
    left_out: list[Case] = []
    with torch.no_grad():
        speed = _probe(models, cases[0])
        for number in range(repeats):
            chosen = list(timings) if number else cases
            for (_, name), group in groupby(chosen, lambda case: (case.setting, case.model)):
                with Rig(models[name]) as rig:
                    for case in group:
                        timing = Timing(case, models[name].config.num_layers)
                        flops = case.flops(timing.layers)
                        if time.monotonic() + CAUTION * flops / speed > deadline or not rig.can_run(case):
                            left_out += [] if number else [case]
                            continue
                        began = time.monotonic()
                        reset_peak(device)
                        try:
                            run = rig.prepare(case)
                            if device.type != "cpu":
                                run()  # the first one chooses kernels
                            seconds = clock.seconds(run)
                        except torch.OutOfMemoryError:
                            left_out.append(case)
                            continue
                        timing = timings.setdefault(case, timing)
                        timing.seconds.append(seconds)
                        timing.peak = max(timing.peak, peak_bytes(device))
                        speed = (speed + flops / max(time.monotonic() - began, 1e-9)) / 2
                        if not number:
                            progress(f"{name}, {case.label}, {case.setting.label}: {timing.full:.3g} s")
    return Measured(timings, left_out, speed)


def _probe(models: Mapping[str, SD3Transformer2DModel], case: Case) -> float:
    """FLOPs a second of a small forward. The first one, which allocates memory, does not count."""
    probe = Case(case.model, HALF, Setting(max(64, round(case.setting.pixels * _PROBE / 16) * 16), 1))
    with Rig(models[case.model]) as rig:
        run = rig.prepare(probe)
        run()
        began = time.monotonic()
        run()
    if models[case.model].device.type != "cpu":
        torch.accelerator.synchronize()
    return probe.flops(models[case.model].config.num_layers) / (time.monotonic() - began)


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

"""The large model's own trajectories of a few calibration prompts, and recipes run beside them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridstitch.bench.calibration import SEEDS, Size
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.measure.pixels import psnr
from hybridstitch.model.exclusive import exclusive
from hybridstitch.model.mmdit import cached_attention, unpatchify
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.recipe.recipe import Recipe, recipes
from hybridstitch.sampler import Step, sample, scheduled
from hybridstitch.tune.remembering import Remembering, Velocities

Work = Callable[[float], object]
"""Called with the work of one step, in plain pictures: those of the large model at all steps."""


@dataclass(frozen=True)
class Run:
    """What a recipe did on all prompts.

    Attributes:
        latents: Finished latents, `(pictures, channels, height, width)`.
        cost: FLOPs relative to the large model at all steps.
    """

    latents: Tensor
    cost: float


class Trajectories:
    """Calibration prompts at one guidance scale: the large model's states and velocities at every step.

    Args:
        pipe: The pair.
        prompts: The calibration prompts. All of them share one tensor.
        steps: Steps of the schedule.
        guidance_scale: Scale of classifier-free guidance.
        size: Width and height in pixels; None for the default of the pair.
        kept: A file that keeps the trajectories for the next start; None for no file.
        on_work: Called after every step.

    Attributes:
        states: Latents before every step and after the last one, `(steps + 1, pictures, channels, height, width)`.
        velocities: The large model's at these states, `(steps, pictures, channels, height, width)`.
        sigmas: Noise levels of the states, `steps + 1` numbers; the last one is 0.
    """

    def __init__(
        self,
        pipe: HybridStitchPipeline,
        prompts: list[str],
        steps: int,
        guidance_scale: float,
        size: Size = (None, None),
        kept: Path | None = None,
        on_work: Work = lambda _: None,
    ):
        self.pipe, self.steps, self.guidance_scale = pipe, steps, guidance_scale
        self._on_work = on_work
        generation = pipe.validate(
            prompts, num_inference_steps=steps, width=size[0], height=size[1],
            guidance_scale=guidance_scale, recipe="large",
        )  # fmt: skip
        self._generation = replace(generation, seeds=tuple(SEEDS + number for number in range(len(prompts))))
        with torch.no_grad():
            self._texts = pipe.prompts(generation.guided, generation.prompts)
        found = load_file(kept) if kept and kept.is_file() else self._record()
        if kept and not kept.is_file():
            save_file(found, kept)
        self.states, self.sigmas = found["states"], [*map(float, found["sigmas"])]
        self._known = Velocities()
        for state, timestep, velocity in zip(
            self.states, self._scheduler().timesteps, found["velocities"], strict=False
        ):
            self._known.add(state, timestep, velocity)
        large = self._model(pipe.large, False)
        rows = found["velocities"]
        grid = large.grid(self.states[0])
        self.velocities = torch.stack([unpatchify(each, grid, large.patch_size) for each in rows])
        self._pictures = self._decode(self.states[-1])

    @property
    def pictures(self) -> int:
        """The number of prompts."""
        return self.states.shape[1]

    @torch.no_grad()
    def run(self, recipe: Recipe) -> Run:
        """Run a recipe on all prompts. The work counts only velocities that no run computed before.

        Raises:
            InvalidInput: Its plan looks at the picture, so that pictures cannot share a tensor.
        """
        if recipe.plan.adaptive:
            expected = "a plan that decides the same for every picture"
            raise InvalidInput([Problem(f"{recipe.name}.plan", expected, recipe.plan.type)])
        text_kept = recipe.text == "kept"
        large = self._model(self.pipe.large, recipe.plan.masked, text_kept)
        small = self._model(self.pipe.small, recipe.fill.cached, text_kept)
        start = self.states[0].to(self.pipe.device)
        plain = self._plain(start)
        done = 0

        def count(_: Step) -> None:
            nonlocal done
            fresh = large.fresh + small.fresh
            self._on_work(self.pictures * (fresh - done) / plain)
            done = fresh

        with exclusive(self.pipe.large, self.pipe.small), ExitStack() as stack:
            for model in (large, small):
                if model.cached:
                    stack.enter_context(cached_attention(model.transformer))
            latents = sample(start, self._scheduler(recipe), large, small, recipe, count)
        return Run(latents.cpu(), (large.flops + small.flops) / plain)

    @torch.no_grad()
    def small_velocity(self, step: int) -> Tensor:
        """The small model's velocity at the large model's state before a step, in the shape of the states."""
        small, latents = self._model(self.pipe.small, False), self.states[step].to(self.pipe.device)
        with exclusive(self.pipe.large, self.pipe.small):
            rows = small(latents, self._scheduler().timesteps[step])
        self._on_work(self.pictures * small.fresh / self._plain(latents))
        return unpatchify(rows, small.grid(latents), small.patch_size).cpu()

    def error(self, run: Run) -> float:
        """The error of the finished latents in dB, the mean over the prompts: minus their signal-to-noise ratio."""
        squares = (run.latents.float() - self.states[-1].float()).square().flatten(1).mean(dim=1)
        signal = self.states[-1].float().square().flatten(1).mean(dim=1)
        return float(10 * torch.log10((squares / signal).clamp(min=1e-12)).mean())

    def fidelity(self, run: Run) -> float:
        """The mean PSNR in dB to the large model's pictures."""
        return float(np.mean([psnr(*each) for each in zip(self._decode(run.latents), self._pictures, strict=True)]))

    def _plain(self, latents: Tensor) -> int:
        """The FLOPs of a plain picture."""
        return self._model(self.pipe.large, False).dense_flops(latents, self.steps)

    def _decode(self, latents: Tensor) -> np.ndarray:
        found = [self.pipe.decode(each.to(self.pipe.device), "np") for each in latents.split(1)]
        return (np.concatenate(found) * 255).round() / 255

    def _scheduler(self, recipe: Recipe | None = None) -> Any:
        """The scheduler of a recipe, which may take fewer steps; by default that of all steps."""
        schedule = recipe.schedule(self.steps) if recipe else self.steps
        return scheduled(self.pipe.scheduler, schedule, self.pipe.device)

    def _model(self, transformer: Any, cached: bool, text_kept: bool = False) -> Remembering:
        known = self._known if transformer is self.pipe.large else Velocities()
        given = (transformer, *self._texts, self.guidance_scale, cached, None, None, None, text_kept)
        return Remembering(*given, known=known)

    def _record(self) -> dict[str, Tensor]:
        states, velocities, sigmas = [], [], []

        def keep(_: range, step: Step) -> None:
            assert step.trajectory is not None
            states.append(step.trajectory.now.latents.cpu())
            velocities.append(step.trajectory.velocities[0].cpu())
            sigmas.append(step.sigma)
            self._on_work(len(states[0]) / step.steps)

        recipe = recipes()["large"]
        out = self.pipe.generate(replace(self._generation, recipe=recipe), on_step=keep, output_type="latent")
        states.append(out.images.cpu())
        return {
            "states": torch.stack(states),
            "velocities": torch.stack(velocities),
            "sigmas": torch.tensor([*sigmas, 0.0], dtype=torch.float64),
        }

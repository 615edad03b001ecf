"""The report of a generation: which model computed which tokens, and in what time."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from hybridstitch.generation import Generation
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.recipe.names import UNTUNED
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.recipe.untuned import NOT_TUNED
from hybridstitch.sampler import Step


@dataclass
class Stage:
    """Consecutive steps of one kind. Token counts are token-steps per picture.

    Attributes:
        name: `large` (the large model rendered every token), `hybrid` (some of them), `small` (only the small model
            ran) or `fill` (neither model ran).
        steps: Number of steps.
        ms: Milliseconds of all its steps.
        large_tokens, small_tokens: Tokens that each model rendered, summed over the steps.
    """

    name: str
    steps: int = 0
    ms: float = 0.0
    large_tokens: int = 0
    small_tokens: int = 0


@dataclass
class Report:
    """Everything that one run of the pipeline computed, for all its pictures; `to_dict` is its JSON.

    Attributes:
        generation: What was generated.
        stages: The steps by kind, in their order.
        large_token_share, small_token_share: Token-steps that each model rendered, as shares of all token-steps of
            the steps taken, 0 to 1. A token that a model renders twice at a step counts once here, twice in `stages`.
        flops_share: FLOPs of both transformers; 1.0 is the large model alone at all requested steps.
        dtype: Of the large model's weights, such as "float32".
        timing_ms: Milliseconds of `encode`, `denoise`, `decode` and `total`.
        large_steps: For each picture and token, the number of steps at which the large model rendered it, integers
            `(pictures, rows, columns)`.
        share_by_step: Share of the tokens that the large model rendered at each step.
        groups: The work of each group of pictures that shared a tensor, in order.
        warnings: Sentences about what the caller may not expect.
    """

    generation: Generation
    stages: list[Stage]
    large_token_share: float
    small_token_share: float
    flops_share: float
    dtype: str
    timing_ms: dict[str, float]
    large_steps: np.ndarray
    share_by_step: list[float]
    groups: list[dict[str, Any]] = field(repr=False)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = self.recipe.name
        if self.flops_share >= 1 and self.recipe.plan.type != "all":
            self.warnings.append(f"recipe {name}: no work was saved, the large model alone needs no more")
        if self.recipe.plan.masked and not any(stage.name == "hybrid" for stage in self.stages):
            self.warnings.append(f"recipe {name}: too few steps for a step with a mask")
        if self.generation.skip_layers and not self.generation.guided:
            self.warnings.append("skip_guidance_layers: has no effect without guidance, which needs a scale above 1")
        self.warnings += self.recipe.fill.warnings(self.steps_taken, self.generation.guidance_scale)
        speed = self.generation.speed
        if speed and self.estimated_speedup and self.estimated_speedup < 0.98 * speed:
            found = f"{self.estimated_speedup:.2f} at {self.generation.num_inference_steps} steps"
            where = " with a region" if self.generation.region else ""
            why = "too few steps" if name == UNTUNED else "not what the pair was tuned at"
            self.warnings.append(f"speed: {speed:g} requested, {found}{where}, which is {why}")
        if name == UNTUNED:
            self.warnings.append(NOT_TUNED)

    @property
    def recipe(self) -> Recipe:
        """The recipe that ran."""
        assert self.generation.recipe is not None
        return self.generation.recipe

    @property
    def steps_taken(self) -> int:
        """The steps of each picture."""
        return len(self.share_by_step)

    @property
    def estimated_speedup(self) -> float | None:
        """FLOPs of the plain large model over those of this run, an estimate; None if no model ran."""
        return 1 / self.flops_share if self.flops_share else None

    def for_images(self, start: int, stop: int, warnings: list[str] | None = None) -> Report:
        """Return the report of the pictures from `start` up to `stop` alone. Times stay those of the whole run.

        Args:
            start, stop: Numbers of the pictures. Each has its own prompt.
            warnings: Those about the prompts of these pictures.
        """
        parts, first = [], 0
        for each in self.groups:
            pictures = len(each["large_steps"])
            kept = each["large_steps"][max(start - first, 0) : max(stop - first, 0)]
            parts += [each | {"large_steps": kept}] if len(kept) else []
            first += pictures
        generation = self.generation.for_images(start, stop)
        return replace(self, generation=generation, warnings=warnings or [], groups=parts, **merged(parts))

    @property
    def batch_size(self) -> int:
        """The largest number of pictures that shared a forward."""
        return max(each["batch_size"] for each in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON, see docs/interface.md."""
        seeds = self.generation.seeds
        return {
            "seed": list(seeds) if isinstance(seeds, tuple) else seeds,
            **self.generation.settings(),
            "steps_taken": self.steps_taken,
            "stages": [asdict(stage) | {"ms": round(stage.ms, 2)} for stage in self.stages],
            "large_token_share": round(self.large_token_share, 6),
            "small_token_share": round(self.small_token_share, 6),
            "flops_share": round(self.flops_share, 6),
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "estimated_speedup": self.estimated_speedup and round(self.estimated_speedup, 4),
            "timing_ms": {name: round(ms, 2) for name, ms in self.timing_ms.items()},
            "mask": {
                "grid": list(self.large_steps.shape[1:]),
                "share_by_step": [round(share, 6) for share in self.share_by_step],
                "large_steps": self.large_steps.tolist(),
            },
            "warnings": self.warnings,
        }


class Recorder:
    """Counts what the models did and how long it took, after every step of a group of pictures."""

    def __init__(self, large: GuidedModel, small: GuidedModel, latents: torch.Tensor):
        self.stages: list[Stage] = []
        self.share_by_step: list[float] = []
        self._large, self._small = large, small
        self._latents = latents
        rows, columns = large.grid(latents)
        # On the device of the latents: the host does not wait for it at every step.
        self._large_steps = torch.zeros(latents.shape[0], rows * columns, dtype=torch.int64, device=latents.device)
        self._grid = (rows, columns)
        self._seen = (0, 0)
        self._small_rendered = 0
        self._timer = StepTimer(latents.device)
        self._stage_of_step: list[Stage] = []

    def step(self, step: Step) -> None:
        """Count one step."""
        counted = (self._large.token_steps, self._small.token_steps)
        large_tokens, small_tokens = (after - before for after, before in zip(counted, self._seen, strict=True))
        if step.tokens is not None:
            self._large_steps.scatter_add_(1, step.tokens, torch.ones_like(step.tokens))
        elif large_tokens:
            self._large_steps += 1

        name = _stage_name(step, large_tokens, small_tokens)
        if not self.stages or self.stages[-1].name != name:
            self.stages.append(Stage(name))
        stage = self.stages[-1]
        stage.steps += 1
        self._stage_of_step.append(stage)
        self._timer.lap()
        stage.large_tokens += large_tokens
        stage.small_tokens += small_tokens
        # A plan and the fill may both run the small model on a token.
        self._small_rendered += min(small_tokens, self._grid[0] * self._grid[1])
        self.share_by_step.append(step.share)
        self._seen = counted

    def work(self, steps_requested: int) -> dict[str, Any]:
        """End the recording. Return its fields of the report, relative to the requested number of steps."""
        for stage, ms in zip(self._stage_of_step, self._timer.durations(), strict=True):
            stage.ms += ms
        all_tokens = len(self.share_by_step) * self._grid[0] * self._grid[1]
        plain = self._large.dense_flops(self._latents, steps_requested)
        return {
            "stages": self.stages,
            "large_token_share": self._large.token_steps / all_tokens,
            "small_token_share": self._small_rendered / all_tokens,
            "flops_share": (self._large.flops + self._small.flops) / plain,
            "large_steps": self._large_steps.cpu().unflatten(1, self._grid).numpy(),
            "share_by_step": self.share_by_step,
            "batch_size": self._latents.shape[0],
        }


def merged(work: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the work of groups that ran one after another: stages in their order, shares as means."""
    if len(work) == 1:
        return {name: value for name, value in work[0].items() if name != "batch_size"}
    means = ("large_token_share", "small_token_share", "flops_share")
    return {name: float(np.mean([each[name] for each in work])) for name in means} | {
        "stages": [stage for each in work for stage in each["stages"]],
        "large_steps": np.concatenate([each["large_steps"] for each in work]),
        "share_by_step": np.mean([each["share_by_step"] for each in work], axis=0).tolist(),
    }


class StepTimer:
    """Measures the steps of a generation in milliseconds, including the accelerator's work.

    On CUDA an event ends each step, and `lap` waits for the event of the step before. So the accelerator always has
    work, and the host is at most one step ahead: deadlines and progress are checked while the last step still runs.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._ends: list[Any] = [self._now()]

    def lap(self) -> None:
        """End a step, which began when the last one ended."""
        self._ends.append(self._now())
        if self._device.type == "cuda":
            self._ends[-2].synchronize()

    def durations(self) -> list[float]:
        """Wait for the last step, and return the milliseconds of each."""
        if self._device.type != "cuda":
            return [1000 * (end - start) for start, end in pairwise(self._ends)]
        self._ends[-1].synchronize()
        return [start.elapsed_time(end) for start, end in pairwise(self._ends)]

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


class Stopwatch:
    """Measures the named parts of a call and their total in milliseconds, including the accelerator's work."""

    def __init__(self, device: torch.device):
        self.timing_ms: dict[str, float] = {"total": 0.0}
        self._device = device
        self._last = time.perf_counter()

    def lap(self, name: str) -> float:
        """End the part `name`, which began when the last one ended, and return its milliseconds."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        ms, self._last = 1000 * (now - self._last), now
        self.timing_ms[name] = self.timing_ms.get(name, 0.0) + ms
        self.timing_ms["total"] += ms
        return ms


def _stage_name(step: Step, large_tokens: int, small_tokens: int) -> str:
    if step.tokens is not None:
        return "hybrid"
    if large_tokens:
        return "large"
    return "small" if small_tokens else "fill"

"""Calibration pictures of a search, by any recipe, generated in this process or in several."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import torch

from hybridstitch.measure.pixels import psnr
from hybridstitch.pipeline import HybridStitchPipeline, StepWatcher
from hybridstitch.recipe.recipe import Recipe, recipes

SEEDS = 2**40
"""The first seed. An evaluation uses other seeds, so no recipe is judged on the noise that selected it."""
Size = tuple[int | None, int | None]
OpenPair = Callable[[], HybridStitchPipeline]


@dataclass(frozen=True)
class Case:
    """A recipe to try at a guidance scale on one of the prompts. The number of the prompt selects the noise."""

    recipe: Recipe
    guidance_scale: float
    prompt: int


class Calibration:
    """Generates cases on one pair.

    Attributes:
        pipe: The pair.
        prompts: The calibration prompts.
        steps: Steps of the schedule.
        size: Width and height in pixels; None for the default of the pair.
    """

    def __init__(self, pipe: HybridStitchPipeline, prompts: list[str], steps: int, size: Size = (None, None)):
        self.pipe, self.prompts, self.steps, self.size = pipe, prompts, steps, size
        self._base = pipe.validate(prompts, num_inference_steps=steps, width=size[0], height=size[1])
        self._references: dict[tuple[float, int], np.ndarray] = {}

    def measure(self, case: Case) -> list[float]:
        """Return the cost of a case, 1 for the large model, and its PSNR in dB to the large model's picture.

        Latents that are not finite have an infinite cost.
        """
        key = (case.guidance_scale, case.prompt)
        if key not in self._references:
            self._references[key] = self.generate(Case(recipes()["large"], *key))[0]
        try:
            picture, cost = self.generate(case)
        except FloatingPointError:
            return [float("inf"), 0.0]
        return [cost, psnr(picture, self._references[key])]

    def generate(self, case: Case, on_step: StepWatcher | None = None) -> tuple[np.ndarray, float]:
        """Return the picture of a case, 0 to 1, and its cost. on_step: Called after every step."""
        generation = replace(
            self._base.for_images(case.prompt, case.prompt + 1),
            seeds=SEEDS + case.prompt,
            recipe=case.recipe,
            guidance_scale=case.guidance_scale,
        )
        out = self.pipe.generate(generation, on_step=on_step, output_type="np")
        return (out.images[0] * 255).round() / 255, out.report.flops_share


_of_this_process: list[Calibration] = []


def _begin(open_pair: OpenPair, prompts: list[str], steps: int, processes: int, size: Size) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; their parent ends them
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    _of_this_process[:] = [Calibration(open_pair(), prompts, steps, size)]


def _measure(number: int, case: Case) -> tuple[int, list[float]]:
    return number, _of_this_process[0].measure(case)


class CalibrationPool:
    """Several processes, each with its own pair and its part of the cores; use it as a context manager."""

    def __init__(self, open_pair: OpenPair, prompts: list[str], steps: int, processes: int, size: Size = (None, None)):
        self._pool = ProcessPoolExecutor(
            processes, get_context("spawn"), _begin, (open_pair, prompts, steps, processes, size)
        )

    def __enter__(self) -> CalibrationPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measure_all(self, cases: Iterable[Case]) -> Iterator[tuple[int, list[float]]]:
        """Yield number, cost and PSNR of each case as it finishes."""
        for done in as_completed([self._pool.submit(_measure, *each) for each in enumerate(cases)]):
            yield done.result()

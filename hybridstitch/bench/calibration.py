"""Drawing for the search: calibration pictures by any recipe, in this process or in several."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch

from hybridstitch.measure.pixels import psnr
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.recipe.recipe import Recipe, recipes

SEEDS = 2**40
"""Where the seeds begin: what is chosen here is not to be judged on the same noise."""
Size = tuple[int | None, int | None]
OpenPair = Callable[[], HybridStitchPipeline]


@dataclass(frozen=True)
class Case:
    """A recipe to try at a guidance scale on one of the prompts, whose number decides its noise."""

    recipe: Recipe
    guidance_scale: float
    prompt: int


class Calibration:
    """Draws cases on a pair, at a number of steps. size: width and height, None for the pair's own."""

    def __init__(self, pipe: HybridStitchPipeline, prompts: list[str], steps: int, size: Size = (None, None)):
        self.pipe, self.prompts, self.steps, self.size = pipe, prompts, steps, size
        self._references: dict[tuple[float, int], np.ndarray] = {}

    def measure(self, case: Case) -> list[float]:
        """Its cost, where the large model's is 1, and the PSNR to the large model's own picture.

        Latents that do not stay finite are worth nothing: an infinite cost.
        """
        key = (case.guidance_scale, case.prompt)
        if key not in self._references:
            self._references[key] = self.generate(Case(recipes()["large"], *key))[0]
        try:
            picture, cost = self.generate(case)
        except FloatingPointError:
            return [float("inf"), 0.0]
        return [cost, psnr(picture, self._references[key])]

    def generate(self, case: Case) -> tuple[np.ndarray, float]:
        """The picture, and its cost."""
        out = self.pipe(
            self.prompts[case.prompt],
            recipe=case.recipe,
            num_inference_steps=self.steps,
            guidance_scale=case.guidance_scale,
            width=self.size[0],
            height=self.size[1],
            generator=torch.Generator().manual_seed(SEEDS + case.prompt),
            output_type="np",
        )
        return (out.images[0] * 255).round() / 255, out.report.flops_share


_of_this_process: list[Calibration] = []


def _begin(open_pair: OpenPair, prompts: list[str], steps: int, processes: int, size: Size) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that began them ends them
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    _of_this_process[:] = [Calibration(open_pair(), prompts, steps, size)]


def _measure(number: int, case: Case) -> tuple[int, list[float]]:
    return number, _of_this_process[0].measure(case)


class CalibrationPool:
    """Several processes that draw, each with a pair of its own and its part of the cores; use as a context manager."""

    def __init__(self, open_pair: OpenPair, prompts: list[str], steps: int, processes: int, size: Size = (None, None)):
        self._pool = ProcessPoolExecutor(
            processes, get_context("spawn"), _begin, (open_pair, prompts, steps, processes, size)
        )

    def __enter__(self) -> CalibrationPool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measure_all(self, cases: Iterable[Case]) -> Iterator[tuple[int, list[float]]]:
        """Number, cost and decibels of each case, as they come."""
        for done in as_completed([self._pool.submit(_measure, *each) for each in enumerate(cases)]):
            yield done.result()

"""Recipes side by side in one process: every prompt and seed by every contender, interleaved, and kept as it comes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from hybridstitch.bench.contenders import Contender, with_solver
from hybridstitch.bench.folder import BenchFolder, Fidelity, Result
from hybridstitch.measure.perceptual import Perceptual
from hybridstitch.measure.pixels import more_often, psnr, ssim
from hybridstitch.pipeline import HybridStitchPipeline, Output
from hybridstitch.report import Report

Drawn = tuple[np.ndarray, Report]


class Bench:
    """Draws, measures and keeps.

    reference: the contender whose pictures and cost the others are measured by. It is drawn again beside whatever is
    still missing, so that times compare within a minute, whenever that minute was. part: (0, 1) draws all, (0, 2)
    every second prompt from the first on, (1, 2) the others: for two processes that share a folder. perceptual: the
    distance to measure beside PSNR and SSIM, if any. size: width and height of the pictures, None for the pair's own.
    """

    def __init__(
        self,
        pipe: HybridStitchPipeline,
        contenders: list[Contender],
        reference: Contender,
        prompts: list[str],
        seeds: list[int],
        guidance_scale: float,
        folder: BenchFolder,
        part: tuple[int, int] = (0, 1),
        perceptual: Perceptual | None = None,
        size: tuple[int | None, int | None] = (None, None),
    ):
        self.pipe, self.prompts, self.seeds = pipe, prompts, seeds
        self.reference = reference
        self.contenders = {each.name: each for each in [reference, *contenders]}
        self.guidance_scale = guidance_scale
        self.folder, self.part = folder, part
        self._pipes = {"euler": pipe, "even": pipe}
        self._perceptual, self._size = perceptual, size

    def run(self, on_pictures: Callable[[int], object] = lambda count: None) -> list[Result]:
        """Draw what is not there yet; all results of these contenders, prompts and seeds.

        on_pictures: called with the number of pictures whenever some were drawn and kept.
        """
        todo = self._todo()
        if any(todo.values()):
            self._warm_up()
        for (prompt, seed), missing in todo.items():
            if missing:
                self.folder.add(self._measure(prompt, seed, missing))
                on_pictures(len(missing))
        return [each for each in self.folder.results() if self._is_wanted(each)]

    def counts(self) -> tuple[int, int]:
        """How many of its pictures are missing, and how many are there."""
        todo = self._todo()
        missing = sum(map(len, todo.values()))
        return missing, len(todo) * len(self.contenders) - missing

    def _todo(self) -> dict[tuple[int, int], list[str]]:
        """Contenders whose picture is missing, for each prompt and seed."""
        found = {(each.prompt, each.seed, each.contender) for each in self.folder.results()}
        return {
            (prompt, seed): [name for name in self.contenders if (prompt, seed, name) not in found]
            for prompt in self._own_prompts
            for seed in self.seeds
        }

    @property
    def _own_prompts(self) -> range:
        return range(self.part[0], len(self.prompts), self.part[1])

    def _is_wanted(self, result: Result) -> bool:
        return result.prompt in self._own_prompts and result.seed in self.seeds and result.contender in self.contenders

    def _measure(self, prompt: int, seed: int, missing: list[str]) -> list[Result]:
        """Draw these contenders and the reference, in an order of this picture's own: drift hits all alike."""
        names = sorted({self.reference.name, *missing})
        random.Random(f"{prompt} {seed}").shuffle(names)
        drawn = {name: self._draw(self.contenders[name], prompt, seed) for name in names}
        for name in missing:
            self.folder.save_picture(name, prompt, seed, drawn[name][0])
        reference = drawn[self.reference.name]
        return [self._result(prompt, seed, name, drawn[name], reference) for name in missing]

    def _warm_up(self) -> None:
        for contender in self.contenders.values():
            self._draw(contender, 0, 0)

    def _draw(self, contender: Contender, prompt: int, seed: int) -> Drawn:
        """The picture, uint8, and its report. Every picture has noise of its own, the same for all contenders."""
        if contender.solver not in self._pipes:
            self._pipes[contender.solver] = with_solver(self.pipe, contender.solver)
        try:
            out = self._generate(contender, prompt, seed)
        except FloatingPointError as error:
            raise RuntimeError(f"contender {contender.name}: {error}; leave it out") from error
        return (out.images[0] * 255).round().astype(np.uint8), out.report

    def _generate(self, contender: Contender, prompt: int, seed: int) -> Output:
        return self._pipes[contender.solver](
            self.prompts[prompt],
            recipe=contender.recipe,
            num_inference_steps=contender.steps,
            sigmas=contender.sigmas,
            guidance_scale=self.guidance_scale,
            width=self._size[0],
            height=self._size[1],
            generator=torch.Generator().manual_seed(1_000_003 * seed + prompt),
            output_type="np",
        )

    def _result(self, prompt: int, seed: int, name: str, drawn: Drawn, reference_drawn: Drawn) -> Result:
        report = drawn[1]
        picture, reference = (each.astype(np.float64) / 255 for each in (drawn[0], reference_drawn[0]))
        inside = more_often(report.large_steps[0], picture.shape[:2])
        whole, distances = None, None
        if self._perceptual:
            whole = self._perceptual(picture, reference)
            distances = self._perceptual.everywhere(picture, reference)
        return Result(
            prompt,
            seed,
            name,
            cost=report.flops_share * report.num_inference_steps / self.reference.steps,
            ms=report.timing_ms["denoise"],
            reference_ms=reference_drawn[1].timing_ms["denoise"],
            large_token_share=report.large_token_share,
            whole=Fidelity(psnr(picture, reference), ssim(picture, reference), whole),
            inside=None if inside is None else _within(inside, picture, reference, distances),
            outside=None if inside is None else _within(~inside, picture, reference, distances),
        )


def _within(where: np.ndarray, picture: np.ndarray, reference: np.ndarray, distances: np.ndarray | None) -> Fidelity:
    perceptual = None if distances is None else float(distances[where].mean())
    return Fidelity(psnr(picture, reference, where), ssim(picture, reference, where), perceptual)

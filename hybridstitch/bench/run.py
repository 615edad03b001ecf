"""Recipes side by side in one process: every prompt and seed by every contender, interleaved, saved as it comes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hybridstitch.bench.cache_dit import CacheDitPipeline
from hybridstitch.bench.contenders import Contender, with_solver
from hybridstitch.bench.folder import BenchFolder, Fidelity, Result
from hybridstitch.generation import Generation
from hybridstitch.measure.perceptual import Perceptual
from hybridstitch.measure.pixels import more_often, psnr, ssim
from hybridstitch.pipeline import HybridStitchPipeline


@dataclass(frozen=True)
class Rendered:
    """A picture of a contender.

    Attributes:
        picture: `(height, width, 3)` in 0..255.
        ms: Time of denoising.
        cost: FLOPs of the transformers, relative to the reference.
        large_token_share: See `Result`.
        large_steps: See `Report`, for this picture; None where the large model rendered all tokens alike.
    """

    picture: np.ndarray
    ms: float
    cost: float
    large_token_share: float
    large_steps: np.ndarray | None


class Bench:
    """Generates, measures and saves the pictures of contenders.

    Attributes:
        pipe: The pair.
        contenders: By name, the reference among them.
        reference: Its pictures and its cost are what the others are measured by. It runs again beside every missing
            picture, so that the times of a comparison lie within a minute.
        prompts, seeds: Every contender gets each prompt with each seed.
        folder: Keeps the results.
        part: `(0, 1)` runs all prompts, `(0, 2)` every second one from the first on, `(1, 2)` the others: for two
            processes that share a folder.
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
        """Prepare a bench.

        Args:
            guidance_scale: Of every contender.
            perceptual: The distance to measure beside PSNR and SSIM, if any.
            size: Width and height of the pictures in pixels; None for the default of the pair.
        """
        self.pipe, self.prompts, self.seeds = pipe, prompts, seeds
        self.reference = reference
        self.contenders = {each.name: each for each in [reference, *contenders]}
        self.folder, self.part = folder, part
        self._base = pipe.validate(prompts, guidance_scale=guidance_scale, width=size[0], height=size[1])
        self._pipes = {"euler": pipe, "even": pipe}
        self._cached = {
            each.name: CacheDitPipeline(pipe, each.cache_dit) for each in contenders if each.cache_dit is not None
        }
        self._perceptual = perceptual

    def run(self, on_pictures: Callable[[int], object] = lambda count: None) -> list[Result]:
        """Generate what is missing, and return all results of these contenders, prompts and seeds.

        Args:
            on_pictures: Called with the number of new pictures whenever some are saved.
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
        """Return the numbers of missing and of finished pictures."""
        todo = self._todo()
        missing = sum(map(len, todo.values()))
        return missing, len(todo) * len(self.contenders) - missing

    def _todo(self) -> dict[tuple[int, int], list[str]]:
        """Return the contenders whose picture is missing, for each prompt and seed."""
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
        """Run these contenders and the reference, in an order that differs by picture, so that drift hits all alike."""
        names = sorted({self.reference.name, *missing})
        random.Random(f"{prompt} {seed}").shuffle(names)
        rendered = {name: self._rendered(self.contenders[name], prompt, seed) for name in names}
        for name in missing:
            self.folder.save_picture(name, prompt, seed, rendered[name].picture)
        reference = rendered[self.reference.name]
        return [self._result(prompt, seed, name, rendered[name], reference) for name in missing]

    def _warm_up(self) -> None:
        for contender in self.contenders.values():
            self._rendered(contender, 0, 0)

    def _rendered(self, contender: Contender, prompt: int, seed: int) -> Rendered:
        """Return the picture of a contender. A prompt and seed have the same noise for all contenders."""
        generation = replace(
            self._base.for_images(prompt, prompt + 1),
            seeds=1_000_003 * seed + prompt,
            recipe=contender.recipe,
            num_inference_steps=contender.steps,
            sigmas=contender.sigmas,
        )
        try:
            return self._generated(contender, generation)
        except FloatingPointError as error:
            raise RuntimeError(f"contender {contender.name}: {error}; leave it out") from error

    def _generated(self, contender: Contender, generation: Generation) -> Rendered:
        steps = contender.steps / self.reference.steps
        if contender.name in self._cached:
            picture, ms, cost = self._cached[contender.name].generate(generation)
            return Rendered(_as_bytes(picture), ms, cost * steps, 1.0, None)
        if contender.solver not in self._pipes:
            self._pipes[contender.solver] = with_solver(self.pipe, contender.solver)
        out = self._pipes[contender.solver].generate(generation, output_type="np")
        report = out.report
        return Rendered(
            _as_bytes(out.images[0]),
            report.timing_ms["denoise"],
            report.flops_share * steps,
            report.large_token_share,
            report.large_steps[0],
        )

    def _result(self, prompt: int, seed: int, name: str, rendered: Rendered, by_reference: Rendered) -> Result:
        picture, reference = (each.picture.astype(np.float64) / 255 for each in (rendered, by_reference))
        often = rendered.large_steps
        inside = None if often is None else more_often(often, picture.shape[:2])
        whole, distances = None, None
        if self._perceptual:
            whole = self._perceptual(picture, reference)
            distances = self._perceptual.everywhere(picture, reference)
        return Result(
            prompt,
            seed,
            name,
            cost=rendered.cost,
            ms=rendered.ms,
            reference_ms=by_reference.ms,
            large_token_share=rendered.large_token_share,
            whole=Fidelity(psnr(picture, reference), ssim(picture, reference), whole),
            inside=None if inside is None else _within(inside, picture, reference, distances),
            outside=None if inside is None else _within(~inside, picture, reference, distances),
        )


def _as_bytes(picture: np.ndarray) -> np.ndarray:
    return (picture * 255).round().astype(np.uint8)


def _within(where: np.ndarray, picture: np.ndarray, reference: np.ndarray, distances: np.ndarray | None) -> Fidelity:
    perceptual = None if distances is None else float(distances[where].mean())
    return Fidelity(psnr(picture, reference, where), ssim(picture, reference, where), perceptual)

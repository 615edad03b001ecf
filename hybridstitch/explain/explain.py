"""Explanations by Captum: what each word of a prompt did to one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridstitch.base.words import Word, word_problem, words_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.explain.effects import RESTS, Effects
from hybridstitch.explain.explanation import Explanation
from hybridstitch.explain.forward_counter import ForwardCounter
from hybridstitch.explain.reading import Readings
from hybridstitch.explain.recording import Recording, record
from hybridstitch.explain.targets import Choice, Prediction, Target, Texts
from hybridstitch.generation import validate
from hybridstitch.model.exclusive import exclusive
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.region import Region, region_problems

TARGETS = ("mask", "region", "image")
METHODS = tuple(RESTS)
STEPS_EXPLAINED = 4
GRADIENT_STEPS = 64


@torch.no_grad()
def explain(
    pipeline: HybridStitchPipeline,
    prompt: str,
    *,
    target: str = "mask",
    method: str = "ablation",
    region: Region | None = None,
    steps_explained: int | None = None,
    seed: int = 0,
    negative_prompt: str = "",
    num_inference_steps: int = 28,
    guidance_scale: float = 4.5,
    width: int | None = None,
    height: int | None = None,
    recipe: Any = None,
    speed: float | None = None,
    gradient_steps: int = GRADIENT_STEPS,
    perturbations_per_eval: int = 4,
    check: Callable[[], None] | None = None,
) -> Explanation:
    """Draw a picture and say what each word of its prompt did to it.

    target: "mask", why the recipe's mask chose the tokens that it gave to the large model; "region", what drove the
        large model's prediction in `region`; "image", the same everywhere.
    method: "ablation": each word is deleted, and its score is what is lost of the whole effect, 1.0 being all of it.
        Words that need each other lose more than the whole together, words that say the same lose less.
        "integrated_gradients" (arXiv 1703.01365): the effect is divided among the words, so the scores add up to it.
    region: with target "region" the question; otherwise, as in a prediction, tokens that are always the large model's.
    steps_explained: how many of the steps that can be are asked, evenly spread over them, 1 to num_inference_steps;
        the cost grows with it. By default 4, or num_inference_steps if that is less. The picture before each of them
        is held as it was.
    gradient_steps: points on the way of integrated gradients; more bring `convergence_delta` down.
    perturbations_per_eval: prompts in one forward; more are faster and take more memory.
    check: called at every step and forward; an exception in it ends everything.
    The others are those of a prediction.

    Cost, in forwards of the large model with one prompt: with target region or image `(words + 2) * steps_explained`,
    and integrated gradients need `2 * gradient_steps * steps_explained` more, and the way back. Target
    mask: each of these is a replay of two dense steps, or a few more, with guidance.

    Raises InvalidInput (a ValueError) that names every wrong argument, also for a mask that no prompt can change.
    """
    width = pipeline.size_limits.default[0] if width is None else width
    height = pipeline.size_limits.default[1] if height is None else height
    generation = {
        "recipe": recipe, "speed": speed, "region": None if target == "region" else region, "width": width,
        "height": height, "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale,
    }  # fmt: skip
    if steps_explained is None:
        steps_explained = default_steps_explained(num_inference_steps)
    problems = _problems(prompt, target, method, region, steps_explained, num_inference_steps, width, height)
    try:
        validate(pipeline.catalogue, pipeline.size_limits, sigmas=None, output_type="pil", **generation)
    except InvalidInput as error:
        problems += [each for each in error.problems if each.field not in {own.field for own in problems}]
    raise_problems(problems)

    counter = ForwardCounter(check)
    recording = record(pipeline, prompt, seed, counter.check, negative_prompt=negative_prompt, **generation)
    with exclusive(pipeline.large, pipeline.small):
        if target == "mask":
            always = None if region is None else _tokens(recording, region, pipeline.size_limits.multiple_of)
            asked: Target = _choice(
                pipeline, recording, counter, steps_explained, negative_prompt, guidance_scale, always
            )
        else:
            where = (
                _tokens(recording, region, pipeline.size_limits.multiple_of) if target == "region" and region else None
            )
            asked = Prediction(
                pipeline, recording, counter, _explained(recording.dense, steps_explained, recording), where
            )
        words = words_of(prompt)
        readings = Readings.of(pipeline, prompt, words)
        effects = Effects(asked, readings, perturbations_per_eval)
        _check_moves(effects)
        scores, delta = effects.ablation(), None
        if method == "integrated_gradients":
            scores, delta = effects.integrated_gradients(gradient_steps)
    return Explanation(
        words=readings.marked(words, scores),
        heatmaps=_of_all(effects.heat, readings, words).unflatten(1, recording.grid),
        image=recording.image,
        mask=None if asked.where is None else asked.where.cpu().unflatten(0, recording.grid),
        target=target,
        method=method,
        baseline=RESTS[method],
        steps_explained=tuple(asked.steps),
        forwards=counter.forwards,
        convergence_delta=delta,
        report=recording.report,
    )


def _of_all(heat: Tensor, readings: Readings, words: Sequence[Word]) -> Tensor:
    """The heat `(words, tokens)` of every word: none for those that are not read."""
    places = {word.start: number for number, word in enumerate(words)}
    found = torch.zeros(len(words), heat.shape[1])
    found[[places[word.start] for word in readings.words]] = heat
    return found


def default_steps_explained(num_inference_steps: Any) -> int:
    """The default of `steps_explained`; the argument may be anything that a caller gave."""
    is_number = type(num_inference_steps) is int and num_inference_steps > 0
    return min(STEPS_EXPLAINED, num_inference_steps) if is_number else STEPS_EXPLAINED


def _problems(
    prompt: Any, target: Any, method: Any, region: Any, steps_explained: Any, steps: Any, width: Any, height: Any
) -> list[Problem]:
    """What is wrong with the question."""
    wrong = word_problem(prompt if isinstance(prompt, str) else "")
    problems = [wrong] if wrong else []
    for field, value, allowed in (("target", target, TARGETS), ("method", method, METHODS)):
        if value not in allowed:
            problems.append(Problem(field, f"one of: {', '.join(allowed)}", value))
    if target == "region":
        if region is None:
            problems.append(Problem("region", "[x0, y0, x1, y1] with target region", None))
        elif type(width) is type(height) is int:
            problems += region_problems(region, width, height)
    highest = steps if type(steps) is int else None
    if type(steps_explained) is not int or steps_explained < 1 or (highest and steps_explained > highest):
        problems.append(Problem("steps_explained", "an integer from 1 to num_inference_steps", steps_explained))
    return problems


def _explained(possible: Sequence[int], wanted: int, recording: Recording) -> list[int]:
    """So many of the steps, or all if there are fewer, evenly spread."""
    if not possible:
        raise InvalidInput([Problem("recipe", "one whose large model renders whole steps", recording.recipe.name)])
    count = min(wanted, len(possible))
    return sorted({possible[round(place * (len(possible) - 1) / max(1, count - 1))] for place in range(count)})


def _choice(
    pipeline: HybridStitchPipeline,
    recording: Recording,
    counter: ForwardCounter,
    wanted: int,
    negative_prompt: str,
    guidance_scale: float,
    always: Tensor | None,
) -> Choice:
    """always: bool `(tokens,)`, those that no mask chose, because they lie in a region."""
    masked = [step for step in recording.masked if recording.has_choice(step, always)]
    if not masked:
        outside = "" if always is None else " outside the region"
        expected = f"region or image: recipe {recording.recipe.name!r} makes no mask{outside}"
        raise InvalidInput([Problem("target", expected, "mask")])
    steps = _explained(masked, wanted, recording)
    negative = Texts(*pipeline.prompts.alone([negative_prompt])) if guidance_scale > 1 else None
    return Choice(pipeline, recording, counter, steps, negative, guidance_scale, always)


def _tokens(recording: Recording, region: Region, cell: int) -> Tensor:
    """The tokens that a region touches, bool `(tokens,)`."""
    left, top, right, bottom = region
    inside = torch.zeros(recording.grid, dtype=torch.bool, device=recording.points[0].latents.device)
    inside[top // cell : -(-bottom // cell), left // cell : -(-right // cell)] = True
    return inside.flatten()


def _check_moves(effects: Effects) -> None:
    """Raise InvalidInput for a mask that is the same without a prompt, or that prefers other tokens than the chosen:
    there is nothing to explain."""
    if all(torch.equal(effects.whole[step], effects.nothing[step]) for step in effects.target.steps):
        mask = effects.target.recording.recipe.mask.type
        expected = f"region or image: mask {mask!r} does not depend on the prompt where the picture so far is given"
        raise InvalidInput([Problem("target", expected, "mask")])
    target = effects.target
    if isinstance(target, Choice) and not all(target.margin(step, effects.whole[step]) > 0 for step in target.steps):
        mask = target.recording.recipe.mask.type
        expected = f"region or image: mask {mask!r} scores the tokens that it chose no higher than the others"
        raise InvalidInput([Problem("target", expected, "mask")])

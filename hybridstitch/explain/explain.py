"""Explanations by Captum: the effect of each word of a prompt on one picture."""

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
from hybridstitch.generation import Generation
from hybridstitch.model.exclusive import exclusive
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.region import Region, region_problems

TARGETS = ("mask", "region", "image")
METHODS = tuple(RESTS)
SIDES = ("width", "height")
STEPS_EXPLAINED = 4
GRADIENT_STEPS = 64


def explain(
    pipeline: HybridStitchPipeline,
    prompt: str,
    *,
    target: str = "mask",
    method: str = "ablation",
    region: Region | None = None,
    steps_explained: int | None = None,
    seed: int = 0,
    gradient_steps: int = GRADIENT_STEPS,
    perturbations_per_eval: int = 4,
    check: Callable[[], None] | None = None,
    **call: Any,
) -> Explanation:
    """Generate a picture and score what each word of its prompt did to it.

    The cost, in forwards of the large model with one prompt, is `(words + 2) * steps_explained` for the targets region
    and image. Integrated gradients add `2 * gradient_steps * steps_explained` forwards and their backward passes. For
    target mask, each of these is a replay of two dense steps or a few more, with guidance.

    Args:
        pipeline: The pair.
        prompt: One text.
        target: "mask": why the mask selected the tokens of the large model. "region": what determined the large
            model's prediction in `region`. "image": the same for the whole picture.
        method: "ablation": deletes each word; its score is the share of the whole effect that is lost, 1.0 for all of
            it. "integrated_gradients" (arXiv 1703.01365): divides the effect among the words, so scores add up to it.
        region: With target "region" the pixels in question. Otherwise pixels that the large model always renders.
        steps_explained: How many steps to explain, evenly spread, 1 to `num_inference_steps`. The cost grows with
            it. 4 by default, or `num_inference_steps` if that is less.
        seed: Of the noise.
        gradient_steps: Points on the path of integrated gradients; more reduce `convergence_delta` and cost more.
        perturbations_per_eval: Prompts in one forward; more are faster and take more memory.
        check: Called at every step and forward; an exception in it ends the work.
        call: Other arguments of a call of the pipeline. Without `recipe` and `speed`, target "mask" explains
            "hybridstitch-plus" on a tuned pair, otherwise "hybridstitch", as the default recipe may make no mask.

    Raises:
        InvalidInput: Names every wrong argument, or a mask that no prompt can change.
    """
    steps = call.get("num_inference_steps", 28)
    if steps_explained is None:
        steps_explained = min(STEPS_EXPLAINED, steps) if type(steps) is int and steps > 0 else STEPS_EXPLAINED
    size = (call.get(side) or default for side, default in zip(SIDES, pipeline.size_limits.default, strict=True))
    problems = _problems(prompt, target, method, region, steps_explained, steps, *size)
    if target == "mask" and call.get("recipe") is None and call.get("speed") is None:
        call["recipe"] = pipeline.catalogue.masked
    try:
        seeds = [torch.Generator().manual_seed(seed)]
        bound = None if target == "region" else region
        generation = pipeline.validate(prompt, generator=seeds, region=bound, **call)
        if generation.skip_layers:
            problems.append(Problem("skip_guidance_layers", "None: explanations run all layers", "layers"))
    except InvalidInput as error:
        problems += [each for each in error.problems if each.field not in {own.field for own in problems}]
    raise_problems(problems)
    return explain_generation(
        pipeline,
        generation,
        target=target,
        method=method,
        region=region if target == "region" else None,
        steps_explained=steps_explained,
        gradient_steps=gradient_steps,
        perturbations_per_eval=perturbations_per_eval,
        check=check,
    )


@torch.no_grad()
def explain_generation(
    pipeline: HybridStitchPipeline,
    generation: Generation,
    *,
    target: str,
    method: str,
    region: Region | None,
    steps_explained: int,
    gradient_steps: int,
    perturbations_per_eval: int = 4,
    check: Callable[[], None] | None = None,
) -> Explanation:
    """Explain a validated generation of one picture from texts; arguments as in `explain`, and validated.

    Args:
        region: The pixels in question with target "region", otherwise None.

    Raises:
        InvalidInput: The recipe has nothing to explain, or its mask does not depend on the prompt.
    """
    counter = ForwardCounter(check)
    recording = record(pipeline, generation, counter.check)
    (prompt,) = generation.prompts.texts["prompt"]
    with exclusive(pipeline.large, pipeline.small), pipeline.adapters.acting(generation.lora):
        if target == "mask":
            asked: Target = _choice(pipeline, recording, counter, steps_explained)
        else:
            where = None if region is None else recording.inside(region, pipeline.size_limits.multiple_of)
            steps = _explained(recording.dense, steps_explained, recording)
            asked = Prediction(pipeline, recording, counter, steps, where)
        words = words_of(prompt)
        readings = Readings.of(pipeline, prompt, words, generation.encoding)
        effects = Effects(asked, readings, perturbations_per_eval)
        _check_moves(effects)
        scores, delta = effects.ablation(), None
        if method == "integrated_gradients":
            scores, delta = effects.integrated_gradients(gradient_steps)
    seeds = generation.seeds
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
        report=recording.report | {"seed": seeds[0] if isinstance(seeds, tuple) else seeds},
    )


def _of_all(heat: Tensor, readings: Readings, words: Sequence[Word]) -> Tensor:
    """Return the heat `(words, tokens)` of every word, zero for those that no encoder reads."""
    places = {word.start: number for number, word in enumerate(words)}
    found = torch.zeros(len(words), heat.shape[1])
    found[[places[word.start] for word in readings.words]] = heat
    return found


def _problems(
    prompt: Any, target: Any, method: Any, region: Any, steps_explained: Any, steps: Any, width: Any, height: Any
) -> list[Problem]:
    """Return what is wrong with the question."""
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
    """Return `wanted` of the possible steps, evenly spread, or all if there are fewer."""
    if not possible:
        raise InvalidInput([Problem("recipe", "one whose large model renders whole steps", recording.recipe.name)])
    count = min(wanted, len(possible))
    return sorted({possible[round(place * (len(possible) - 1) / max(1, count - 1))] for place in range(count)})


def _choice(pipeline: HybridStitchPipeline, recording: Recording, counter: ForwardCounter, wanted: int) -> Choice:
    generation = recording.generation
    always = None
    if generation.region is not None:
        always = recording.inside(generation.region, pipeline.size_limits.multiple_of)
    masked = [step for step in recording.masked if recording.has_choice(step, always)]
    if not masked:
        outside = "" if always is None else " outside the region"
        expected = f"region or image: recipe {recording.recipe.name!r} makes no mask{outside}"
        raise InvalidInput([Problem("target", expected, "mask")])
    steps = _explained(masked, wanted, recording)
    negative = generation.prompts.texts.get("negative_prompt") or [""]
    unwanted = Texts(*pipeline.prompts.alone(negative, how=generation.encoding)) if generation.guided else None
    return Choice(pipeline, recording, counter, steps, unwanted, always)


def _check_moves(effects: Effects) -> None:
    """Raise InvalidInput where there is nothing to explain.

    Either the mask does not depend on the prompt, or it does not prefer the tokens that were selected.
    """
    if all(torch.equal(effects.whole[step], effects.nothing[step]) for step in effects.target.steps):
        mask = effects.target.recording.recipe.mask.type
        expected = f"region or image: mask {mask!r} does not depend on the prompt where the picture so far is given"
        raise InvalidInput([Problem("target", expected, "mask")])
    target = effects.target
    if isinstance(target, Choice) and not all(target.margin(step, effects.whole[step]) > 0 for step in target.steps):
        mask = target.recording.recipe.mask.type
        expected = f"region or image: mask {mask!r} scores the tokens that it chose no higher than the others"
        raise InvalidInput([Problem("target", expected, "mask")])

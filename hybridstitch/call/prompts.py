"""Validation of the prompts of a call, which are texts or embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybridstitch.base.texts import LONGEST as MOST_CHARACTERS
from hybridstitch.base.texts import text_problem
from hybridstitch.errors import Problem
from hybridstitch.model.parts import Parts
from hybridstitch.model.prompts import EMBEDS, NEGATIVE_EMBEDS, NEGATIVE_TEXTS, TEXTS, Prompts

LONGEST = 512
"""Tokens of the third text encoder, as diffusers limits them."""


def prompts_of(
    pair: Parts, given: Mapping[str, Any], length: int | None, guided: bool, problems: list[Problem]
) -> Prompts:
    """Read the arguments under diffusers' names; adds to `problems`.

    Args:
        pair: The models that the prompts are for.
        given: The arguments of the call by name.
        length: Tokens of the third text encoder; None if that is wrong.
        guided: Whether guidance uses the negative half.
        problems: Collects what is wrong.
    """
    texts = {name: _text_list(name, given[name], problems) for name in TEXTS + NEGATIVE_TEXTS}
    embeds = {name: given[name] for name in EMBEDS + NEGATIVE_EMBEDS if given[name] is not None}
    if given["prompt"] is None and given["prompt_embeds"] is None:
        problems.append(Problem("prompt", "a string or a list of strings, or prompt_embeds instead", None))
    problems += _conflicts(given, TEXTS, EMBEDS) + _conflicts(given, NEGATIVE_TEXTS, NEGATIVE_EMBEDS)
    broken = {name for name in embeds if not _is_embedding(name, embeds[name], pair, problems)}

    leader, count = "prompt", None
    if given["prompt"] is not None:
        count = None if texts["prompt"] is None else len(texts["prompt"])
    elif "prompt_embeds" in embeds and "prompt_embeds" not in broken:
        leader, count = "prompt_embeds", embeds["prompt_embeds"].shape[0]
    if count is None:
        return Prompts({}, embeds, None)
    for name, found in texts.items():
        if found is not None and isinstance(given[name], str) and name != "prompt":
            texts[name] = found * count
        elif found is not None and len(found) != count:
            problems.append(Problem(name, f"one text, or {count} as in {leader}", f"{len(found)} texts"))
    rows = None if length is None else pair.prompts.clip_length + length
    if leader == "prompt_embeds":
        # Given both, cond and uncond need only fit each other, as in diffusers; otherwise uncond is encoded here.
        alone = guided and "negative_prompt_embeds" not in embeds
        rows = rows if alone else embeds["prompt_embeds"].shape[1]
    for name in embeds.keys() - broken:
        problems += _shape_problems(name, embeds[name], count, rows, leader)
    return Prompts({name: found for name, found in texts.items() if found is not None}, embeds, count)


def text_length(pair: Parts, value: Any, problems: list[Problem]) -> int | None:
    """Return `max_sequence_length`, or the default of the pair; None if it is wrong."""
    if value is None:
        return pair.prompts.text_length
    lowest = 1 if pair.prompts.text_length else 0
    if type(value) is int and lowest <= value <= LONGEST:
        return value
    problems.append(Problem("max_sequence_length", f"an integer from {lowest} to {LONGEST}", value))
    return None


def clip_skip_problems(pair: Parts, value: Any) -> list[Problem]:
    """Return what is wrong with `clip_skip`, which counts layers of both CLIP encoders from the last but one."""
    encoders = (pair.text_encoder, pair.text_encoder_2)
    highest = min(encoder.config.num_hidden_layers for encoder in encoders) - 1
    if value is None or (type(value) is int and 0 <= value <= highest):
        return []
    return [Problem("clip_skip", f"an integer from 0 to {highest}, the layers that CLIP has", value)]


def _text_list(name: str, value: Any, problems: list[Problem]) -> list[str] | None:
    if value is None or (value == "" and isinstance(value, str) and name not in ("prompt", "negative_prompt")):
        return None  # as in diffusers, an empty second or third text stands for the first one
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        problems.append(Problem(name, "a string or a list of at least one string", value))
        return None
    wrong = [Problem(f"{name}[{at}]", "a string", each) for at, each in enumerate(value) if not isinstance(each, str)]
    if not wrong and name == "prompt":
        wrong = _blank_prompts(value)
    problems += wrong
    return None if wrong else value


def _blank_prompts(texts: list[str]) -> list[Problem]:
    """Return the prompts that show nothing. Longer ones than a request may have are read in part."""
    names = ["prompt"] if len(texts) == 1 else [f"prompt[{at}]" for at in range(len(texts))]
    found = (text_problem(name, text[:MOST_CHARACTERS]) for name, text in zip(names, texts, strict=True))
    return [problem for problem in found if problem]


def _conflicts(given: Mapping[str, Any], texts: tuple[str, ...], embeds: tuple[str, ...]) -> list[Problem]:
    """Return texts beside embeddings, and embeddings without their companion."""
    present = [name for name in embeds if given[name] is not None]
    found = []
    if present and any(given[name] is not None for name in texts):
        beside = " and ".join(name for name in texts if given[name] is not None)
        found += [Problem(name, f"nothing beside {beside}: embeddings stand for texts", "a tensor") for name in present]
    elif len(present) == 1:
        missing = next(name for name in embeds if given[name] is None)
        found.append(Problem(missing, f"a tensor, as {present[0]} is given", None))
    return found


def _is_embedding(name: str, value: Any, pair: Parts, problems: list[Problem]) -> bool:
    config, pooled = pair.large.config, "pooled" in name
    width = config.pooled_projection_dim if pooled else config.joint_attention_dim
    axes = f"(prompts, {width})" if pooled else f"(prompts, text tokens, {width})"
    if not isinstance(value, Tensor) or not value.is_floating_point():
        problems.append(Problem(name, f"a floating point tensor {axes}", described(value)))
    elif value.dim() != (2 if pooled else 3) or value.shape[-1] != width or not value.shape[0]:
        problems.append(Problem(name, f"a tensor {axes}", described(value)))
    elif not torch.isfinite(value).all():
        problems.append(Problem(name, "finite numbers", "NaN or infinity"))
    else:
        return True
    return False


def _shape_problems(name: str, value: Tensor, count: int, rows: int | None, leader: str) -> list[Problem]:
    expected = (count,) if "pooled" in name or rows is None else (count, rows)
    if value.shape[: len(expected)] == expected:
        return []
    axes = ", ".join(map(str, (*expected, value.shape[-1])))
    return [Problem(name, f"a tensor ({axes}), to go with {leader} and max_sequence_length", described(value))]


def described(value: Any) -> Any:
    """Return a value for an error: of a tensor its dtype and shape."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else value

"""One request value: where its fields are spelled out, and how often a request is validated."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridstitch import HybridStitchPipeline, pipeline
from hybridstitch.base.paths import ROOT
from hybridstitch.explain import explain_generation
from hybridstitch.generation import joined
from hybridstitch.serving.worker import render
from hybridstitch.wire import question, request
from hybridstitch.wire.question import parse_explanation
from hybridstitch.wire.request import parse_request

SMALL = {"num_inference_steps": 2, "width": 32, "height": 32}
PLACES = {
    "wire/fields.py",  # the schema of the wire
    "generation.py",
    *("pipeline.py", "call/arguments.py"),  # the call in the shape of diffusers'
}


def names_in(path: Path) -> Iterator[str]:
    """Every name and text of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for field in ("arg", "attr", "id", "value"):
            if isinstance(value := getattr(node, field, None), str):
                yield value


def test_the_fields_of_a_generation_are_spelled_out_in_three_places(tiny_pipe: HybridStitchPipeline) -> None:
    fields = tiny_pipe.validate("a dog").settings().keys()
    assert {"recipe", "speed", "region", "width", "height", "num_inference_steps", "guidance_scale", "lora"} == fields
    package = ROOT / "hybridstitch"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if fields <= {*names_in(path)}}
    assert files == PLACES
    assert not any(fields <= {*names_in(path)} for path in (ROOT / "handler").glob("*.py"))


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of each validation, as it happens."""
    happened: list[str] = []

    def counted(validate: Callable[..., Any], name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: happened.append(name) or validate(*arguments, **options)

    for module, name in ((request, "draft_request"), (question, "draft_request"), (pipeline, "validate_call")):
        monkeypatch.setattr(module, name, counted(getattr(module, name), name))
    return happened


def test_a_request_is_validated_once(tiny_pipe: HybridStitchPipeline, validations: list[str]) -> None:
    fields = {"prompt": "a dog", "seed": 1, "recipe": "hybridstitch", **SMALL}
    parsed = parse_request(fields, {}, tiny_pipe.size_limits, tiny_pipe.catalogue)
    first = render.generate(tiny_pipe, parsed).images[0]
    assert validations == ["draft_request"]
    again = tiny_pipe("a dog", generator=parsed.generation.generators(), recipe="hybridstitch", **SMALL)
    assert validations == ["draft_request", "validate_call"]
    assert first.tobytes() == again.images[0].tobytes()


def test_an_explanation_is_validated_once(tiny_pipe: HybridStitchPipeline, validations: list[str]) -> None:
    fields = {"prompt": "a dog", "seed": 1, "target": "image", "steps_explained": 1, "recipe": "large", **SMALL}
    parsed, asked = parse_explanation(fields, {}, tiny_pipe.size_limits, tiny_pipe.catalogue)
    assert explain_generation(tiny_pipe, parsed.generation, **vars(asked)).report["seed"] == 1
    assert validations == ["draft_request"]


def test_joined_generations_are_cut_apart_again(tiny_pipe: HybridStitchPipeline) -> None:
    one, two = (
        parse_request(
            {"prompt": text, "seed": seed, "num_images": count}, {}, tiny_pipe.size_limits, tiny_pipe.catalogue
        ).generation
        for text, seed, count in (("a", 1, 1), ("b", 5, 2))
    )
    assert one.batch_key == two.batch_key
    both = joined([one, two])
    assert both.seeds == (1, 5, 6)
    assert (both.for_images(0, 1), both.for_images(1, 3)) == (one, two)

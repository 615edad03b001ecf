"""What a payload becomes: defaults, ranges and the request that makes the same picture again."""

from __future__ import annotations

from typing import Any

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.model.pair import SizeLimits
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.wire.names import MAX_SEED
from hybridstitch.wire.request import GenerationRequest, parse_request

LIMITS = SizeLimits(multiple_of=16, minimum=64, maximum=256, default=(128, 64))
CATALOGUE = Catalogue.load()


def parse(payload: Any, **defaults: Any) -> GenerationRequest:
    return parse_request(payload, defaults, LIMITS, CATALOGUE)


def refused(payload: Any, **defaults: Any) -> dict[str, str]:
    with pytest.raises(InvalidInput) as error:
        parse(payload, **defaults)
    return {problem.field: problem.expected for problem in error.value.problems}


def test_defaults_come_from_the_operator_then_the_model_then_the_interface() -> None:
    request = parse({"prompt": "x"}, num_inference_steps=9, recipe="small", width=None, height=96)
    assert (request.generation.num_inference_steps, request.generation.guidance_scale) == (9, 4.5)
    assert (request.generation.width, request.generation.height) == (128, 96)
    assert request.generation.recipe is not None
    assert request.generation.recipe.name == "small"
    assert (request.output_format, request.output_quality, request.response_format) == ("png", 90, "image")


def test_a_wrong_default_is_named_like_a_wrong_field() -> None:
    assert set(refused({"prompt": "x"}, num_inference_steps=0, colour="red")) == {"num_inference_steps", "colour"}


def test_seeds_are_drawn_over_the_whole_range_and_kept_when_given() -> None:
    drawn = [parse({"prompt": "x"}).seed for _ in range(64)]
    assert len(set(drawn)) == 64
    assert all(0 <= seed <= MAX_SEED for seed in drawn)
    assert max(drawn) > MAX_SEED // 2
    assert parse({"prompt": "x", "seed": None}).seed != parse({"prompt": "x", "seed": None}).seed
    assert [parse({"prompt": "x", "seed": seed}).seed for seed in (0, MAX_SEED)] == [0, MAX_SEED]


def test_the_edges_of_every_range_are_inside() -> None:
    for edge in (
        {"num_inference_steps": 1, "guidance_scale": 0, "width": 64, "output_quality": 1},
        {"num_inference_steps": 100, "guidance_scale": 20.0, "width": 256, "output_quality": 100},
        {"prompt": "x" * 2000, "negative_prompt": "two\nlines\tand an \U0001f34e", "request_id": "~" * 128},
    ):
        parse({"prompt": "x", **edge})


@pytest.mark.parametrize(("given", "nearest"), [(100, 96), (1, 64), (-5, 64), (10**400, 256), (71.9, 64)])
def test_a_wrong_size_is_told_the_nearest_right_one(given: float, nearest: int) -> None:
    expected = refused({"prompt": "x", "width": given})["width"]
    assert expected == f"a multiple of 16 within 64..256; the nearest is {nearest}"


def test_its_dictionary_is_a_request_for_the_same_picture() -> None:
    request = parse({"prompt": "x", "guidance_scale": 3, "recipe": {"name": "hybridstitch", "plan": {"share": 0.5}}})
    again = parse(request.to_dict())
    assert again.to_dict() == request.to_dict()
    assert again.request_id != request.request_id


def test_without_a_catalogue_there_is_no_recipe() -> None:
    request = parse_request({"prompt": "x"}, {}, LIMITS)
    assert request.generation.recipe is None
    assert "recipe" not in request.to_dict()
    with pytest.raises(InvalidInput, match="recipe: expected one of the known fields"):
        parse_request({"prompt": "x", "recipe": "large"}, {}, LIMITS)

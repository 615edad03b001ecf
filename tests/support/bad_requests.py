"""Requests that must be refused, each with the fields that the answer must name: no more, no fewer."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hybridstitch.model.pair import SizeLimits

LIMITS = SizeLimits(multiple_of=8, minimum=32, maximum=128, default=(128, 128))
"""The sizes that the requests are checked against."""
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


class Bad(NamedTuple):
    name: str
    body: bytes
    fields: set[str]
    content_type: str | None = JSON


def _fields(name: str, fields: set[str], /, **changes: Any) -> Bad:
    """A request that is fine but for `changes`."""
    return Bad(name, json.dumps({"prompt": "red apple", "num_inference_steps": 1} | changes).encode(), fields)


def _one(field: str, /, **values: Any) -> list[Bad]:
    """Several wrong values of one field, named."""
    return [_fields(f"{field} {name.replace('_', ' ')}", {field}, **{field: value}) for name, value in values.items()]


def _recipe(name: str, field: str, /, **recipe: Any) -> Bad:
    return _fields(f"recipe {name}", {f"recipe.{field}"}, recipe=recipe)


HUGE = 10**400
NAN, INFINITY = float("nan"), float("inf")
GOOD_BODY = json.dumps({"prompt": "red apple", "num_inference_steps": 1}).encode()

BAD_REQUESTS = [
    # The body as a whole
    Bad("empty body", b"", {"body"}),
    Bad("broken JSON", b'{"prompt": "red apple"', {"body"}),
    Bad("not UTF-8", b'{"prompt": "\xff"}', {"body"}),
    Bad("an array", b'["red apple"]', {"body"}),
    Bad("a string", b'"red apple"', {"body"}),
    Bad("a number", b"7", {"body"}),
    Bad("null", b"null", {"body"}),
    Bad("deep beyond Python's stack", b"[" * 100_000, {"body"}),
    Bad("deep within Python's stack", b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", {"body"}),
    Bad("a number of 5000 digits", b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", {"body"}),
    Bad("too many fields", json.dumps({f"field{index}": 0 for index in range(1000)}).encode(), {"body"}),
    Bad("a form with wrong numbers", b"prompt=red&seed=x&width=1.5", {"seed", "width"}, FORM),
    Bad("a form without a prompt", b"seed=1", {"prompt"}, FORM),
    Bad("an empty object that is labelled as text", b"{}", {"prompt"}, "text/plain"),
    Bad("plain text that is too long", b"x" * 2001, {"prompt"}, "text/plain"),
    Bad("plain text that is not UTF-8", b"\xff", {"body"}, "text/plain"),
    Bad("no content type and no text", b"\x89PNG\r\n\xff", {"body"}, None),
    Bad("no content type and broken JSON", GOOD_BODY[:-1], {"body"}, None),
    Bad("JSON that is labelled as a form", GOOD_BODY, {"body"}, FORM),
    Bad("a form with all in one field, and more", b"data=red&seed=1&colour=2", {"seed", "colour"}, FORM),
    Bad("a picture", b"\x89PNG\r\n", {"content-type"}, "image/png"),
    # Missing and unknown fields
    Bad("nothing in it", b"{}", {"prompt"}),
    _fields("unknown field", {"promt"}, promt="red apple"),
    _fields("field of a later version", {"scheduler"}, scheduler="euler"),
    _fields("field in the wrong case", {"Seed"}, Seed=1),
    _fields("empty field name", {""}, **{"": 1}),
    # Speed
    *_one("speed", zero=0, below_one=0.9, too_fast=1e6, text="2", nan=NAN, infinity=INFINITY, true=True),
    _fields("speed beside a recipe", {"speed"}, speed=2, recipe="large"),
    # Text
    *_one("prompt", null=None, number=5, empty="", too_long="x" * 2001, array=["a"], object={"text": "a"}),
    *_one("prompt", spaces="   ", zero_width="\u200b\ufeff", white="\t\n"),
    *_one("prompt", control="red\x00apple", surrogate="red \ud83c apple"),
    *_one("negative_prompt", too_long="x" * 2001, boolean=False, escape="\x1b[31m"),
    *_one("request_id", empty="", too_long="x" * 129, header_split="a\r\nx-evil: 1", not_ascii="é", number=7),
    # Numbers
    *_one("seed", negative=-1, too_large=2**53, huge=HUGE, fraction=1.5, boolean=True, text="7", nan=NAN),
    *_one("num_inference_steps", zero=0, too_many=101, fraction=2.0, boolean=True, huge=HUGE),
    *_one("guidance_scale", negative=-0.1, too_large=20.5, nan=NAN, infinity=INFINITY, minus_infinity=-INFINITY),
    *_one("guidance_scale", text="4.5", boolean=True, huge=HUGE),
    *_one("width", zero=0, negative=-64, off_the_grid=101, too_large=2**20, huge=HUGE, fraction=64.0, text="64"),
    *_one("height", small=1, nan=NAN, boolean=True, array=[64]),
    *_one("output_quality", zero=0, too_large=101, fraction=90.5),
    *_one("num_images", zero=0, too_many=9, text="2", boolean=True),
    _fields("seed of the last image too large", {"seed"}, seed=2**53 - 2, num_images=3),
    # Region
    *_one("region", text="0,0,64,64", three=[0, 0, 64], negative=[-8, 0, 64, 64], fraction=[0, 0, 64.0, 64], object={}),
    *_one("region", empty=[8, 8, 8, 64], turned=[64, 64, 0, 0], outside=[0, 0, 64, 4096], huge=[0, 0, HUGE, 8]),
    _fields("region turned beside a wrong size", {"width", "region"}, width=1, region=[64, 0, 0, 64]),
    _fields("recipe unknown beside a speed", {"speed", "recipe"}, speed=2, recipe="fastest"),
    _fields("region outside of a smaller picture", {"region"}, width=64, height=64, region=[0, 0, 65, 64]),
    # Streams and deadlines
    *_one("stream", text="true", number=1),
    *_one("previews", negative=-1, too_many=9, without_stream=1),
    *_one("deadline_ms", zero=0, negative=-1, fraction=0.5, text="100"),
    _fields("bytes of a stream", {"response_format"}, stream=True, response_format="image"),
    _fields("bytes of two pictures", {"response_format"}, num_images=2, response_format="image"),
    # Choices
    *_one("output_format", unknown="gif", case="PNG", number=1, array=["png"]),
    *_one("response_format", unknown="b64", object={}),
    # Recipes
    *_one("recipe", unknown="fastest", empty="", number=3, array=["large"], boolean=True),
    _fields("recipe empty object", {"recipe.plan"}, recipe={}),
    _recipe("unknown axis", "planet", name="large", planet={}),
    _recipe("unknown name beside an axis", "name", name="fastest", plan={"type": "all"}),
    _recipe("unknown plan", "plan.type", plan={"type": "fast"}),
    _recipe("unknown mask", "mask.type", name="hybridstitch", mask={"type": "magic"}),
    _recipe("unknown fill", "fill.type", name="hybridstitch", fill="magic"),
    _recipe("path of a class", "mask.type", name="hybridstitch", mask={"type": "os:system"}),
    _recipe("mask that is no object", "mask", name="hybridstitch", mask=7),
    _recipe("unknown parameter", "plan.speed", name="hybridstitch", plan={"speed": 2}),
    _recipe("share too large", "plan.share", name="hybridstitch", plan={"share": 1.5}),
    _recipe("share NaN", "plan.share", name="hybridstitch", plan={"share": NAN}),
    _recipe("share infinite", "plan.share", name="hybridstitch", plan={"share": INFINITY}),
    _recipe("share huge", "plan.share", name="hybridstitch", plan={"share": HUGE}),
    _recipe("share text", "plan.share", name="hybridstitch", plan={"share": "0.3"}),
    _recipe("share boolean", "plan.share", name="hybridstitch", plan={"share": True}),
    _recipe("stages longer than the schedule", "plan.hybrid", name="hybridstitch", plan={"large": 0.8, "hybrid": 0.8}),
    # Several at once
    _fields(
        "everything wrong",
        {"prompt", "seed", "num_inference_steps", "width", "height", "recipe", "colour"},
        prompt="",
        seed=-1,
        num_inference_steps=0,
        width=1,
        height="tall",
        recipe="fastest",
        colour="red",
    ),
    _fields(
        "two axes of a recipe, and the size",
        {"recipe.plan.share", "recipe.mask.type", "width"},
        width=3,
        recipe={"name": "hybridstitch", "plan": {"share": 2}, "mask": {"type": "magic"}},
    ),
]

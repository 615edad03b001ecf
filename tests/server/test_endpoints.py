"""Both endpoints over HTTP: pictures in every format, headers, reports, and that they are what they claim to be."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import requests
from PIL import Image

from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.serving.client.client import Client
from hybridstitch.serving.server.server import Server
from tests.support.served import QUICK

STITCHED = {
    "name": "hybridstitch",
    "plan": {"type": "staged", "large": 0.5, "hybrid": 0.25, "share": 0.25},
}
FOUR_STEPS = QUICK | {"num_inference_steps": 4, "recipe": STITCHED}


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_image_answers_have_the_format_asked_for(client: Client, name: str) -> None:
    answer = client.predict(QUICK | {"output_format": name})
    assert answer.headers["content-type"] == f"image/{name}"
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size, image.mode) == (name.upper(), (128, 128), "RGB")


def test_quality_changes_the_size_of_a_jpeg(client: Client) -> None:
    low, high = (len(client.predict(QUICK | {"output_format": "jpeg", "output_quality": q}).content) for q in (5, 95))
    assert low < high / 2


def test_headers_say_what_was_computed(client: Client) -> None:
    answer = client.predict(FOUR_STEPS | {"request_id": "order 66"})
    headers = {name: value for name, value in answer.headers.items() if name.startswith("x-hybridstitch-")}
    assert headers.pop("x-hybridstitch-seed") == "7"
    assert headers.pop("x-hybridstitch-recipe") == "custom"
    assert headers.pop("x-hybridstitch-request-id") == "order 66"
    # 2 of 4 steps on all tokens, 1 on a quarter of them
    assert float(headers.pop("x-hybridstitch-large-token-share")) == pytest.approx(2.25 / 4)
    assert 0 < float(headers.pop("x-hybridstitch-flops-share")) < 1
    assert float(headers.pop("x-hybridstitch-denoise-ms")) > 0
    assert headers.pop("x-hybridstitch-worker").isdigit()
    assert not headers


def test_a_json_answer_holds_the_same_picture_and_the_report(client: Client) -> None:
    document = client.predict(FOUR_STEPS | {"response_format": "json"}).json()
    assert set(document) == {"created", "data", "report", "warnings"}
    (picture,) = document["data"]
    assert picture["seed"] == 7
    decoded = Image.open(io.BytesIO(base64.b64decode(picture["b64_json"])))
    assert np.array_equal(decoded, Image.open(io.BytesIO(client.predict(FOUR_STEPS).content)))
    report = document["report"]
    assert [(stage["name"], stage["steps"]) for stage in report["stages"]] == [
        ("large", 2),
        ("hybrid", 1),
        ("small", 1),
    ]
    assert report["recipe"]["plan"] == STITCHED["plan"]
    assert report["mask"]["share_by_step"] == [1.0, 1.0, 0.25, 0.0]
    rows, columns = report["mask"]["grid"]
    assert np.sum(report["mask"]["large_steps"]) == rows * columns * 2.25


def test_a_request_may_name_a_speed_instead_of_a_recipe(client: Client) -> None:
    asked = {"prompt": "red apple on blue", "seed": 7, "num_inference_steps": 20, "speed": 2}
    report = client.predict(asked | {"response_format": "json"}).json()["report"]
    assert report["speed"] == 2
    assert report["recipe"]["name"] == "tuned"
    assert report["estimated_speedup"] > 1.9  # tuned at another number of steps
    picture = client.predict(asked).content
    again = json.loads(Image.open(io.BytesIO(picture)).text["hybridstitch"])
    assert "speed" not in again  # it may mean another recipe tomorrow
    assert client.predict(again).content == picture


def test_the_same_request_twice_gives_the_same_bytes(client: Client) -> None:
    first, second = (client.predict(FOUR_STEPS).content for _ in range(2))
    assert first == second


def test_a_png_carries_the_request_that_makes_it_again(client: Client) -> None:
    original = client.predict({"prompt": "red apple on blue", "num_inference_steps": 2})
    request = json.loads(Image.open(io.BytesIO(original.content)).text["hybridstitch"])
    assert request["seed"] == int(original.headers["x-hybridstitch-seed"])
    assert request["recipe"] == Catalogue.load().of_pair(EMBEDDED_PAIR).default(4.5).to_dict()
    assert client.predict(request).content == original.content


def test_without_a_seed_every_picture_is_another(client: Client) -> None:
    seeds = {client.generate("red apple", num_inference_steps=1).seed for _ in range(3)}
    assert len(seeds) == 3


def test_recipe_large_is_the_plain_endpoints_picture(client: Client) -> None:
    ours = client.generate(**QUICK, recipe="large", negative_prompt="green")
    plain = client.generate(**QUICK, model="plain", negative_prompt="green")
    assert np.array_equal(ours.image, plain.image)
    assert ours.report["large_token_share"] == plain.report["large_token_share"] == 1


def test_recipes_draw_different_pictures(client: Client) -> None:
    pictures = {client.generate(**QUICK, recipe=recipe).image_bytes for recipe in ("large", "small", "t-stitch")}
    assert len(pictures) == 3


def test_sizes_other_than_square(client: Client) -> None:
    limits = client.describe()[0]["customizedMetadata"]["limits"]
    width, height = limits["maximum"], limits["minimum"]
    assert client.generate(**QUICK, width=width, height=height).image.size == (width, height)


def test_describe_tells_what_the_endpoint_takes(client: Client) -> None:
    (described,) = client.describe("hybridstitch")
    custom = described["customizedMetadata"]
    assert {"large", "small", "t-stitch", "srdiffusion", "hybridstitch"} <= set(custom["recipes"])
    assert custom["masks"]["velocity-change"]["summary"]
    assert custom["defaults"]["num_inference_steps"] == 28
    assert custom["pair"]["name"] == "emoji"
    assert "recipes" not in client.describe("plain")[0]["customizedMetadata"]


def test_a_version_can_be_named(client: Client) -> None:
    assert client.generate(**QUICK, model="hybridstitch/1.0").seed == 7


def test_nobody_is_served_without_a_token(server: Server) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {server.token('management')}"}):
        answer = requests.post(f"{server.url}/predictions/hybridstitch", json=QUICK, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")
    register = f"{server.management_url}/models?url=plain.mar&model_name=sneaky"
    assert requests.post(register, timeout=60).status_code == 400

"""The mark of generated pictures in the answers of a live server: pictures, previews and explanations, on and off."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from hybridstitch import Client, __version__
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from hybridstitch.wire.names import METADATA_KEY
from tests.support.handlers import CONFIG, call, make_handler
from tests.support.marks import SOURCE, UNMARKED, mark_of
from tests.support.served import QUICK

MARKED = (SOURCE, f"hybridstitch {__version__}")
SILENT = CONFIG | {"handler": CONFIG["handler"] | {"mark": False}}


@pytest.fixture(scope="module")
def silent(store: Path, client: Client, emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a model whose operator switched the mark off."""
    config = tmp_path_factory.mktemp("silent") / "model-config.yaml"
    config.write_text(yaml.safe_dump(SILENT))
    pack(emoji, out=store, name="silent", config=config)
    client.register("silent.mar", "silent")
    yield "silent"
    client.unregister("silent")


def previews(client: Client, model: str) -> list[bytes]:
    events = client.stream(**QUICK, previews=1, model=model)
    return [base64.b64decode(each["b64_json"]) for each in events if each["event"] == "preview"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_every_kind_of_picture_is_marked_unless_it_is_off(client: Client, silent: str, kind: str) -> None:
    for model, expected in (("hybridstitch", MARKED), ("plain", MARKED), (silent, UNMARKED)):
        pictures = [client.generate(**QUICK, model=model, output_format=kind).image_bytes for _ in range(2)]
        assert (mark_of(pictures[0]), len(set(pictures))) == (expected, 1)


def test_previews_and_the_pictures_of_explanations_are_marked_unless_it_is_off(client: Client, silent: str) -> None:
    for model, expected in (("hybridstitch", MARKED), (silent, UNMARKED)):
        (preview,) = previews(client, model)
        assert mark_of(preview) == expected
        document = client.explain(**QUICK, model=model, target="image", method="ablation")
        assert mark_of(base64.b64decode(document["data"][0]["b64_json"])) == expected
        assert mark_of(base64.b64decode(document["heatmap_png_b64"])) == expected


def test_the_pictures_of_an_openai_client_are_marked_unless_it_is_off(server: Server, silent: str) -> None:
    for model, expected in (("hybridstitch", MARKED), (silent, UNMARKED)):
        answer = requests.post(
            f"{server.url}/predictions/{model}/1.0/v1/images/generations",
            json={"prompt": QUICK["prompt"], "num_inference_steps": 2, "output_format": "jpeg"},
            headers={"Authorization": f"Bearer {server.token()}"},
            timeout=60,
        )
        assert mark_of(base64.b64decode(answer.json()["data"][0]["b64_json"])) == expected


def test_a_marked_picture_can_still_be_made_again(client: Client) -> None:
    first = client.generate(**QUICK)
    request = json.loads(first.image.text[METADATA_KEY])
    assert request["prompt"] == QUICK["prompt"]
    assert client.generate(**request).image_bytes == first.image_bytes


@pytest.mark.parametrize(("config", "expected"), [(CONFIG, MARKED), (SILENT, UNMARKED)])
def test_the_plain_endpoint_has_the_switch_too(tiny: Path, config: dict[str, Any], expected: Any) -> None:
    (picture,), _ = call(make_handler("plain_sd3_handler", tiny, config), [{"body": QUICK}])
    assert mark_of(picture) == expected

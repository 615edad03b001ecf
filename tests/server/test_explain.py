"""Explanations by the real server, over HTTP and gRPC, from clients and the command line."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from hybridstitch import ServiceError
from hybridstitch.cli.main import main
from hybridstitch.serving.client.replies import Result
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.handlers import STITCHED
from tests.support.metrics import scrape, total, wait_for
from tests.support.served import Connect

ASKED: dict[str, Any] = {"prompt": "a b", "seed": 1, "num_inference_steps": 4, "recipe": STITCHED}
ONE_STEP = ASKED | {"steps_explained": 1}
both = pytest.mark.parametrize("transport", ["http", "grpc"])


@pytest.fixture(scope="module")
def why(server: Server, store: Path, tiny: Path) -> Iterator[str]:
    """A model of toy size, which TorchServe hands up to four requests at once."""
    archive = pack(tiny, out=store, name="why")
    server.client.register(archive.name, "why", batch_size=4, max_batch_delay_ms=300)
    yield "why"
    server.client.unregister("why")


@both
def test_a_client_gets_words_heat_maps_and_the_picture(connect: Connect, why: str, transport: str) -> None:
    client = connect(transport)
    answer = client.explain(**ONE_STEP, model=why)
    assert [(word["text"], word["start"], word["end"]) for word in answer["words"]] == [("a", 0, 1), ("b", 2, 3)]
    assert all(isinstance(word["score"], float) for word in answer["words"])
    assert {"baseline", "method", "forwards", "report", "heatmap_png_b64"} <= set(answer)
    picture = Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    assert picture.tobytes() == client.generate(**ASKED, model=why).image.tobytes()


def test_both_transports_say_the_same(connect: Connect, why: str) -> None:
    http, grpc = (connect(transport).explain(**ONE_STEP, model=why) for transport in ("http", "grpc"))
    in_band = connect("http").predict({"explain": ONE_STEP}, why).json()
    assert http["words"] == grpc["words"] == in_band["words"]


@both
def test_every_wrong_field_is_named(connect: Connect, why: str, transport: str) -> None:
    with pytest.raises(ServiceError) as refused:
        connect(transport).explain("a b", model=why, target="why", num_images=2, stream=True, width=3)
    assert (refused.value.status, refused.value.kind) == (400, "invalid_request")
    assert {problem["field"] for problem in refused.value.problems} == {"target", "num_images", "stream", "width"}


@both
def test_a_deadline_ends_it(connect: Connect, why: str, transport: str) -> None:
    with pytest.raises(ServiceError) as late:
        connect(transport).explain(
            **ASKED | {"num_inference_steps": 100, "steps_explained": 100, "deadline_ms": 400}, model=why
        )
    assert (late.value.status, late.value.kind) == (504, "deadline_exceeded")


@both
def test_a_batch_of_both_kinds_is_answered_item_by_item(connect: Connect, why: str, transport: str) -> None:
    client = connect(transport)
    words, picture = client.explain(**ONE_STEP, model=why)["words"], client.generate(**ASKED, model=why).image

    def ask(number: int) -> Any:
        wrong = {"seed": -1} if number >= 6 else {}
        if number % 2:
            return client.predict(ASKED | wrong | {"response_format": "json"}, why).json()
        return client.explain(**ONE_STEP | wrong, model=why)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
    answers = [each.result() for each in asked[:6]]
    assert all(answer["words"] == words for answer in answers[::2])
    for answer in answers[1::2]:
        assert "words" not in answer
        drawn = Result.from_document(answer).image
        assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(picture, dtype=int)).max() <= 1  # rounding in a batch
    assert max(answer["report"]["batch_size"] for answer in answers[1::2]) > 1
    for refused in asked[6:]:
        error = refused.exception()
        assert isinstance(error, ServiceError)
        assert (error.status, [problem["field"] for problem in error.problems]) == (400, ["seed"])


def test_the_description_has_the_schema_of_an_explanation(server: Server, why: str) -> None:
    described = server.client.describe(why)[0]["customizedMetadata"]
    validator = Draft202012Validator(described["explanation_schema"])
    Draft202012Validator.check_schema(described["explanation_schema"])
    validator.validate(ONE_STEP | {"target": "region", "region": [0, 0, 8, 8], "stream": False})
    validator.validate(server.client.explain(**ONE_STEP, model=why)["request"])
    for wrong in ({"target": "why"}, {"steps_explained": 0}, {"stream": True}, {"num_images": 2}, {"promt": "x"}):
        assert not validator.is_valid(ONE_STEP | wrong)
    assert "target" not in described["request_schema"]["properties"]
    assert "explanation_schema" not in server.client.describe("plain")[0]["customizedMetadata"]


@both
def test_the_plain_endpoint_explains_nothing(connect: Connect, transport: str) -> None:
    with pytest.raises(ServiceError) as refused:
        connect(transport).explain("red apple", model="plain")
    assert refused.value.status == 400
    assert [problem["field"] for problem in refused.value.problems] == ["explain"]


def test_explanations_are_counted_apart(server: Server, connect: Connect, why: str) -> None:
    labels = {"Model": why, "Recipe": "custom", "Outcome": "ok"}
    kinds = ("explanation", "prediction")
    before = {kind: total(scrape(server), "HybridStitchRequests", **labels, Kind=kind) for kind in kinds}
    server.client.explain(**ONE_STEP, model=why)
    samples = wait_for(server, "HybridStitchRequests", before["explanation"] + 1, **labels, Kind="explanation")
    after = {kind: total(samples, "HybridStitchRequests", **labels, Kind=kind) for kind in kinds}
    assert after == {"explanation": before["explanation"] + 1, "prediction": before["prediction"]}


def test_the_command_line_asks_a_server(
    server: Server, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = tmp_path / "why.html"
    arguments = ["explain", "a b", "--url", server.url, "--model", why, "--recipe", json.dumps(STITCHED)]
    arguments += ["--num-inference-steps", "4", "--steps-explained", "1", "--seed", "1", "--out", str(page), "--json"]
    assert main(arguments) == 1  # no token
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", server.token() or "")
    capsys.readouterr()
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["words"] == server.client.explain(**ONE_STEP, model=why)["words"]
    assert "<mark" in page.read_text()
    assert main([*arguments, "--key-file", str(server.key_file), "--target", "why"]) == 2
    assert "target: expected one of: mask, region, image" in capsys.readouterr().err

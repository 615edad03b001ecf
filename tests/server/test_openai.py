"""The real client of OpenAI against a running server: pictures, streams and typed errors."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import requests
from PIL import Image

from hybridstitch.serving.server.server import Server
from tests.support.served import QUICK, encoded

PROMPT = "red apple on blue"
OURS = {"seed": 7, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def connected(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the stitched endpoint."""
    with openai.OpenAI(base_url=address(server), api_key=server.token()) as client:
        yield client


def address(server: Server, model: str = "hybridstitch") -> str:
    return f"{server.url}/predictions/{model}/1.0/v1"


def data(image: Any) -> bytes:
    return base64.b64decode(image.b64_json)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_bytes_equal_those_of_the_own_dialect(server: Server, connected: openai.OpenAI) -> None:
    answer = connected.images.generate(
        model="gpt-image-1", prompt=PROMPT, n=2, size="64x128", user="u-1", extra_body=OURS
    )
    assert answer.data is not None
    own = server.client.generate(PROMPT, **OURS, num_images=2, width=64, height=128)
    assert [data(each) for each in answer.data] == encoded(own)
    assert [each.to_dict()["seed"] for each in answer.data] == [7, 8]
    assert (answer.size, answer.quality, answer.output_format) == ("64x128", "auto", "png")


def test_formats_and_compression(server: Server, connected: openai.OpenAI) -> None:
    answer = connected.images.generate(prompt=PROMPT, output_format="jpeg", output_compression=30, extra_body=OURS)
    own = server.client.generate(PROMPT, **OURS, output_format="jpeg", output_quality=30, response_format="json")
    assert answer.data is not None
    assert [data(each) for each in answer.data] == encoded(own)


def test_quality_is_the_dial(server: Server, connected: openai.OpenAI) -> None:
    shares = {}
    for quality, speed in {"low": 4, "medium": 2.5, "high": 1.83}.items():
        fields = {"seed": 7, "num_inference_steps": 12}
        answer = connected.images.generate(prompt=PROMPT, quality=quality, extra_body=fields)  # type: ignore[call-overload]
        own = server.client.generate(PROMPT, **fields, speed=speed)
        assert [data(each) for each in answer.data] == encoded(own), quality
        shares[quality] = answer.to_dict()["report"]["flops_share"]
    assert shares["low"] < shares["medium"] < shares["high"] < 1


def test_a_stream_with_partial_images(connected: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"prompt": PROMPT, "extra_body": OURS | {"num_inference_steps": 8, "recipe": "large"}}
    with connected.images.generate(**asked, stream=True, partial_images=3) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
    whole = connected.images.generate(**asked)
    assert whole.data is not None
    assert data(events[-1]) == data(whole.data[0])
    final = pixels(data(whole.data[0])).astype(float)
    distances = [np.abs(pixels(data(event)) - final).mean() for event in events[:3]]
    assert distances[0] > distances[1] > distances[2] > 0


def test_a_stream_without_partial_images_is_one_event_a_picture(connected: openai.OpenAI) -> None:
    with connected.images.generate(prompt=PROMPT, n=2, stream=True, extra_body=OURS) as stream:
        events = list(stream)
    assert [event.type for event in events] == ["image_generation.completed"] * 2
    assert [event.to_dict()["seed"] for event in events] == [7, 8]


def test_the_stream_is_server_sent_events(server: Server) -> None:
    sent = {"prompt": PROMPT, "stream": True, "partial_images": 1, **OURS}
    headers = {"Authorization": f"Bearer {server.token()}"}
    url = f"{address(server)}/images/generations"
    with requests.post(url, json=sent, headers=headers, stream=True, timeout=60) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        lines = answer.text.splitlines()
    named = [line for line in lines if line.startswith("event: ")]
    assert named == ["event: image_generation.partial_image", "event: image_generation.completed"]


def test_wrong_fields_are_their_bad_request_error(connected: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        connected.images.generate(prompt=PROMPT, n=9, response_format="url", background="transparent", size="1x1")
    error = refused.value
    assert (error.status_code, error.type, error.code) == (400, "invalid_request_error", "invalid_request")
    assert error.param == "response_format"
    assert isinstance(error.body, dict)
    named = {problem["field"] for problem in error.body["problems"]}
    assert named == {"n", "response_format", "background", "size"}
    assert all(f"{name}: expected" in error.message for name in named)
    with pytest.raises(openai.BadRequestError):  # refused before the stream begins, so with a status
        connected.images.generate(prompt=PROMPT, stream=True, partial_images=4)


def test_a_deadline_in_a_stream_is_an_error_event(connected: openai.OpenAI) -> None:
    """The first partial image comes after a quarter of the work, so one of the doubled deadlines is after it."""
    sent: dict[str, Any] = {"prompt": PROMPT, "stream": True, "partial_images": 3}
    errors: list[openai.APIError] = []
    events: list[Any] = []
    while not events:
        late = {"num_inference_steps": 60, "recipe": "large", "deadline_ms": 250 * 2 ** len(errors)}
        images = connected.with_options(max_retries=0).images
        with pytest.raises(openai.APIError) as expired, images.generate(**sent, extra_body=late) as stream:
            events.extend(stream)
        errors.append(expired.value)
    assert all(isinstance(error, openai.InternalServerError) for error in errors[:-1])  # no event was sent
    assert not isinstance(errors[-1], openai.APIStatusError)
    assert "deadline_ms" in errors[-1].message
    assert {event.type for event in events} == {"image_generation.partial_image"}


def test_a_deadline_without_a_stream_is_a_server_error(connected: openai.OpenAI) -> None:
    late = {"num_inference_steps": 100, "deadline_ms": 1, "recipe": "large"}
    with pytest.raises(openai.InternalServerError) as expired:
        connected.with_options(max_retries=0).images.generate(prompt=PROMPT, extra_body=late)
    assert (expired.value.status_code, expired.value.code) == (504, "deadline_exceeded")


def test_a_wrong_token_is_refused_by_the_server(server: Server) -> None:
    """TorchServe checks tokens itself, with status 400 in place of 401."""
    with openai.OpenAI(base_url=address(server), api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="Token") as refused:
            client.images.generate(prompt=PROMPT)
        assert refused.value.type == "InvalidKeyException"


def test_other_paths_are_not_found(server: Server, connected: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="v1/images/generations"):
        connected.chat.completions.create(model="x", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError):
        connected.images.edit(image=("a.png", b"no picture"), prompt=PROMPT)
    headers = {"Authorization": f"Bearer {server.token()}"}
    for path in ("predictions/hybridstitch/1.0/colour", "explanations/hybridstitch/1.0/v1/images/generations"):
        answer = requests.post(f"{server.url}/{path}", json=QUICK, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code" if "v1" in path else "type"]) == (404, "not_found")


def test_the_plain_endpoint_speaks_it_too(server: Server) -> None:
    with openai.OpenAI(base_url=address(server, "plain"), api_key=server.token()) as client:
        answer = client.images.generate(prompt=PROMPT, extra_body=OURS)
        assert answer.data is not None
        own = server.client.generate(PROMPT, **OURS, recipe="large", response_format="json")
        assert np.array_equal(pixels(data(answer.data[0])), np.asarray(own.image))
        with pytest.raises(openai.BadRequestError, match="quality"):
            client.images.generate(prompt=PROMPT, quality="low")

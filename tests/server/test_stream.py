"""Streamed answers over HTTP, and what happens to them in a batch, at a deadline and when nobody listens any more."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from hybridstitch.serving.server.server import Server
from tests.support.served import QUICK

STITCHED = {"name": "hybridstitch", "plan": {"type": "staged", "large": 0.25, "hybrid": 0.5, "share": 0.25}}
EIGHT = QUICK | {"num_inference_steps": 8, "recipe": STITCHED, "stream": True}


def post(server: Server, model: str = "hybridstitch", **fields: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {server.token()}"}
    url = f"{server.url}/predictions/{model}"
    return requests.post(url, json=fields, headers=headers, stream=True, timeout=60)


def stream(server: Server, model: str = "hybridstitch", **fields: Any) -> Iterator[dict[str, Any]]:
    with post(server, model, **fields) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
        yield from (json.loads(line) for line in answer.iter_lines())


def picture(b64_json: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def test_events_tell_of_every_step_and_end_with_the_result(server: Server) -> None:
    events = list(stream(server, **EIGHT, previews=3))
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["step"] for event in progress] == list(range(1, 9))
    assert [event["large_share"] for event in progress] == [1.0] * 2 + [0.25] * 4 + [0.0] * 2
    assert all(event["steps"] == 8 and event["images"] == [0] for event in progress)
    result = events[-1]
    assert result["event"] == "result"
    whole = server.client.generate(**{**EIGHT, "stream": False})
    assert np.array_equal(picture(result["data"][0]["b64_json"]), whole.image)
    assert result["report"]["stages"][1]["name"] == "hybrid"


def test_previews_come_nearer_to_the_picture(server: Server) -> None:
    events = list(stream(server, **EIGHT, previews=3))
    previews = [event for event in events if event["event"] == "preview"]
    assert [event["step"] for event in previews] == [2, 4, 6]
    final = np.asarray(picture(events[-1]["data"][0]["b64_json"]), dtype=float)
    distances = [np.abs(np.asarray(picture(event["b64_json"]), dtype=float) - final).mean() for event in previews]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 40  # of 255: pictures are far nearer than noise, at about 70


def test_a_mask_event_tells_the_tokens_once_for_each_mask(server: Server) -> None:
    masks = [event for event in stream(server, **EIGHT) if event["event"] == "mask"]
    assert [event["step"] for event in masks] == [3]  # the mask stays fixed after the last dense step
    rows, columns = masks[0]["grid"]
    assert len(masks[0]["tokens"]) == rows * columns // 4
    changing = STITCHED | {"mask": {"type": "every", "mask": "random"}}
    masks = [event for event in stream(server, **EIGHT | {"recipe": changing}) if event["event"] == "mask"]
    assert [event["step"] for event in masks] == [3, 4, 5, 6]


def test_events_come_while_the_picture_is_drawn(server: Server) -> None:
    started = time.monotonic()
    seen = [time.monotonic() - started for _ in stream(server, **{**QUICK, "num_inference_steps": 50}, stream=True)]
    assert seen[0] < seen[-1] / 4


def test_several_images_are_numbered(server: Server) -> None:
    events = list(stream(server, **{**EIGHT, "num_images": 2}, previews=1))
    assert {event["image"] for event in events if event["event"] in ("preview", "mask")} == {0, 1}
    assert [each["seed"] for each in events[-1]["data"]] == [7, 8]


def test_pictures_that_are_drawn_one_after_another_stream_one_after_another(server: Server) -> None:
    events = list(stream(server, **{**EIGHT, "num_images": 2, "recipe": "srdiffusion"}))
    images = [event["images"] for event in events if event["event"] == "progress"]
    assert images == [[0]] * 8 + [[1]] * 8


def test_a_deadline_in_the_middle_is_the_last_event(server: Server) -> None:
    events = list(stream(server, **{**QUICK, "num_inference_steps": 100}, stream=True, deadline_ms=700))
    assert events[-1]["event"] == "error"
    assert events[-1]["error"]["type"] == "deadline_exceeded"
    assert 0 < len(events) - 1 < 100


def test_what_is_wrong_before_the_first_event_has_its_status(server: Server) -> None:
    answer = post(server, **{**EIGHT, "seed": -1})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request")
    sent = {"Authorization": f"Bearer {server.token()}", "x-request-start": f"t={time.time() - 60:.3f}"}
    late = requests.post(
        f"{server.url}/predictions/hybridstitch", json=EIGHT | {"deadline_ms": 1000}, headers=sent, timeout=60
    )
    assert (late.status_code, late.json()["error"]["type"]) == (504, "deadline_exceeded")


def test_the_plain_endpoint_streams_its_steps(server: Server) -> None:
    events = list(stream(server, "plain", **QUICK, stream=True))
    assert [event["event"] for event in events] == ["progress", "progress", "result"]
    assert events[-1]["report"]["recipe"] == {"name": "plain"}
    with post(server, "plain", **QUICK, stream=True, previews=1) as refused:
        assert refused.json()["error"]["problems"][0]["field"] == "previews"


@pytest.fixture(scope="module")
def batching(server: Server) -> Iterator[str]:
    """The same archive, which TorchServe hands up to four requests at once."""
    headers = {"Authorization": f"Bearer {server.token('management')}"}
    query = (
        "url=hybridstitch.mar&model_name=batching&initial_workers=1&synchronous=true&batch_size=4&max_batch_delay=1000"
    )
    assert requests.post(f"{server.management_url}/models?{query}", headers=headers, timeout=120).ok
    yield "batching"
    server.client.unregister("batching")


def test_a_batch_of_streams_whole_answers_and_errors(server: Server, batching: str) -> None:
    whole = {**EIGHT, "stream": False, "response_format": "json"}
    asked = [{**EIGHT, "seed": 1}, whole | {"seed": 2}, {**EIGHT, "seed": -1}, {**EIGHT, "seed": 3, "deadline_ms": 1}]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda fields: post(server, batching, **fields), asked))
    assert [answer.status_code for answer in answers] == [200, 200, 400, 504]
    events = [json.loads(line) for line in answers[0].iter_lines()]
    assert [event["event"] for event in events].count("progress") == 8
    assert (events[-1]["event"], events[-1]["data"][0]["seed"]) == ("result", 1)
    assert events[-1]["report"]["batch_size"] == answers[1].json()["report"]["batch_size"] == 2
    alone = server.client.generate(**whole | {"seed": 2})
    together = picture(answers[1].json()["data"][0]["b64_json"])
    assert np.abs(np.asarray(together, dtype=int) - np.asarray(alone.image, dtype=int)).max() <= 1


def test_clients_that_leave_a_stream_do_not_hurt_the_next(server: Server) -> None:
    for _ in range(3):
        with post(server, **{**QUICK, "num_inference_steps": 100}, stream=True, deadline_ms=1000) as answer:
            next(answer.iter_lines())
    assert server.client.generate(**QUICK).seed == 7

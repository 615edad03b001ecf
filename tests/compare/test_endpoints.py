"""Endpoint strings, tokens, and every shape of answer from a live server."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybridstitch.compare.endpoints.open import open_endpoint, read_token
from hybridstitch.compare.endpoints.spec import Answer, parse_endpoint
from hybridstitch.errors import InvalidInput
from tests.support.picture_server import TOKEN

URL = "http://127.0.0.1:8080/predictions/hybridstitch"


def pixels(answer: Answer) -> np.ndarray:
    assert answer.picture, answer.error
    return np.asarray(Image.open(io.BytesIO(answer.picture)).convert("RGB"))


def test_an_endpoint_string_in_its_parts():
    spec = parse_endpoint(
        f'{URL}#recipe=small&num_inference_steps=28&speed=1.5&recipe2={{"plan":"all"}}&note=NaN&kind=image'
    )
    assert (spec.target, spec.kind, spec.is_url, spec.sends_seed) == (URL, "image", True, True)
    given = {"recipe": "small", "num_inference_steps": 28, "speed": 1.5, "recipe2": {"plan": "all"}, "note": "NaN"}
    assert spec.fields == given
    assert not parse_endpoint(f"{URL}#seed=off").sends_seed
    assert not parse_endpoint(f"{URL}#kind=text").sends_seed
    kinds = {"own": "hybridstitch", "openai": "openai", "kserve-v1": "kserve-v1", "kserve-v2": "kserve-v2"}
    for dialect, kind in kinds.items():
        assert parse_endpoint(f"{URL}#dialect={dialect}").kind == kind


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("ftp://host/predictions/x", ["a"]),
        ("http://host", ["a"]),
        ("http://host:port/predictions/x", ["a"]),
        ("http://host?token=1", ["a"]),
        (f"{URL}#response_format=url&n=2", ["a#n", "a#response_format"]),
        ("/no/such/folder", ["a"]),
        ("", ["a"]),
        (f"{URL}#recipe", ["a"]),
        (f"{URL}#steps=1&steps=2", ["a#steps"]),
        (f"{URL}#prompt=x&num_images=2&kind=magic&seed=7", ["a#kind", "a#seed", "a#prompt", "a#num_images"]),
        (f"{URL}#kind=text&steps=1", ["a#kind"]),
        (f"{URL}#dialect=graphql", ["a#dialect"]),
        (f"{URL}#dialect=7", ["a#dialect"]),
        (f"{URL}#dialect=openai&kind=openai", ["a#dialect"]),
    ],
)
def test_endpoint_strings_that_make_no_sense(text, fields):
    with pytest.raises(InvalidInput) as error:
        parse_endpoint(text, "a")
    assert [problem.field for problem in error.value.problems] == fields


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(InvalidInput) as error:
        parse_endpoint("http://user:hush@host/predictions/x", "a")
    assert "hush" not in str(error.value)


def test_tokens_come_from_a_key_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keys = tmp_path / "key_file.json"
    keys.write_text(json.dumps({"inference": {"key": TOKEN}}))
    assert read_token("a", keys) == TOKEN
    assert read_token("b", None) is None
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN_B", "other")
    assert read_token("b", None) == "other"
    for content in ("{", "[]", json.dumps({"inference": {"key": f"{TOKEN}\r\nX: y"}})):
        keys.write_text(content)
        with pytest.raises(InvalidInput) as error:
            read_token("a", keys)
        assert TOKEN not in str(error.value)


OF_PATH = {
    "v1/images/generations": "openai",
    "v1/models/x:predict": "kserve-v1",
    "v2/models/x/infer": "kserve-v2",
}


@pytest.mark.parametrize("path", ["image", "base64", "pixels", *OF_PATH])
def test_every_shape_gives_the_picture_that_was_drawn(drawing: str, tiny: Path, path: str):
    drawn = pixels(open_endpoint(parse_endpoint(f"{tiny}#recipe=large&num_inference_steps=2")).ask("a cat", 3))
    assert np.array_equal(pixels(open_endpoint(parse_endpoint(f"{drawing}/{path}")).ask("a cat", 3)), drawn)
    assert open_endpoint(parse_endpoint(f"{drawing}/{path}")).describe()["kind"] == OF_PATH.get(path, "auto")
    kind = OF_PATH.get(path, path)
    named = open_endpoint(parse_endpoint(f"{drawing}/{path}#kind={kind}"))
    assert np.array_equal(pixels(named.ask("a cat", 3)), drawn)
    assert named.describe()["kind"] == kind


def test_the_prompt_alone_as_text(drawing: str, tiny: Path):
    drawn = open_endpoint(parse_endpoint(f"{tiny}#recipe=large&num_inference_steps=2")).ask("a cat", 0)
    assert np.array_equal(
        pixels(open_endpoint(parse_endpoint(f"{drawing}/text#kind=text")).ask("a cat", 9)), pixels(drawn)
    )


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("two", "2 pictures"),
        ("nothing", "no pictures"),
        ("broken", "cannot be decoded"),
        ("noise", "neither a picture nor JSON"),
        ("pixels#kind=base64", "no pictures"),
        ("image#kind=pixels", "neither a picture nor JSON"),
        ("base64#kind=image", "not the bytes"),
        ("base64#kind=kserve-v1", "no list of one prediction"),
        ("base64#kind=kserve-v2", "no list of output tensors"),
        ("redirect", "302"),
        ("refusing", "500"),
    ],
)
def test_what_is_no_picture_is_a_failure_that_says_why(drawing: str, path: str, error: str):
    answer = open_endpoint(parse_endpoint(f"{drawing}/{path}"), TOKEN).ask("a cat", 0)
    assert answer.picture is None
    assert answer.seconds > 0
    assert error in (answer.error or "")
    assert TOKEN not in (answer.error or "")


def test_an_answer_that_takes_too_long_and_a_server_that_is_not_there(drawing: str):
    for path in ("slow", "drops"):
        slow = open_endpoint(parse_endpoint(f"{drawing}/{path}"), timeout=0.3).ask("a cat", 0)
        assert slow.picture is None
        assert slow.seconds < 1
    gone = open_endpoint(parse_endpoint("http://127.0.0.1:9/predictions/x")).ask("a cat", 0)
    assert (gone.error or "").startswith("unreachable: ")
    assert "HTTPConnection" not in (gone.error or "")


def test_a_pair_folder_draws_what_the_pipeline_draws_and_refuses_wrong_fields(tiny: Path):
    endpoint = open_endpoint(parse_endpoint(f"{tiny}#recipe=small&num_inference_steps=2"))
    answer = endpoint.ask("a cat", 5)
    assert answer.report is not None
    assert (answer.report["seed"], answer.report["large_token_share"]) == (5, 0)
    assert np.array_equal(pixels(answer), pixels(endpoint.ask("a cat", 5)))
    assert endpoint.describe()["weights"]
    with pytest.raises(InvalidInput) as error:
        open_endpoint(parse_endpoint(f"{tiny}#recipe=nobody&width=3"), side="b")
    assert {problem.field for problem in error.value.problems} == {"b#recipe", "b#width"}
    with pytest.raises(InvalidInput):
        open_endpoint(parse_endpoint(f"{tiny}#kind=image"))
    with pytest.raises(InvalidInput):
        open_endpoint(parse_endpoint(URL), timeout=0)

"""The comparison against a real TorchServe: both archives, named and recognised, with tokens."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybridstitch.cli.main import main
from hybridstitch.compare.endpoints.open import open_endpoint
from hybridstitch.compare.endpoints.spec import Answer, parse_endpoint
from hybridstitch.serving.server.server import Server


def pixels(answer: Answer) -> np.ndarray:
    assert answer.picture, answer.error
    return np.asarray(Image.open(io.BytesIO(answer.picture)).convert("RGB"))


def test_our_archives_are_recognised_and_report(server: Server) -> None:
    ours = open_endpoint(
        parse_endpoint(f"{server.url}/predictions/hybridstitch#recipe=large&num_inference_steps=2"), server.token()
    )
    plain = open_endpoint(parse_endpoint(f"{server.url}/predictions/plain/1.0#num_inference_steps=2"), server.token())
    assert ours.ask("red apple", 1).report is None  # the first answer is a picture, and says whose it is
    second, other = ours.ask("red apple", 1), (plain.ask("red apple", 1), plain.ask("red apple", 1))[1]
    assert ours.describe()["kind"] == plain.describe()["kind"] == "hybridstitch"
    assert second.report is not None
    assert second.report["mask"]["grid"] == [16, 16]
    assert other.report is not None
    assert other.report["recipe"]["name"] == "plain"
    assert np.array_equal(pixels(second), pixels(other))


@pytest.mark.parametrize("kind", ["image", "base64", "hybridstitch"])
def test_a_kind_can_be_named(server: Server, kind: str) -> None:
    as_json = "" if kind != "base64" else "&output_format=webp"
    url = f"{server.url}/predictions/hybridstitch#num_inference_steps=1&kind={kind}{as_json}"
    answer = open_endpoint(parse_endpoint(url), server.token()).ask("red apple", 0)
    assert (answer.picture is None) == (kind == "base64")  # it answers with a picture unless JSON is asked for


def test_without_a_token_the_servers_own_words_are_the_failure(server: Server) -> None:
    answer = open_endpoint(parse_endpoint(f"{server.url}/predictions/plain")).ask("red apple", 0)
    assert "InvalidKeyException" in (answer.error or "")
    wrong = open_endpoint(parse_endpoint(f"{server.url}/predictions/plain#steps=2"), server.token()).ask("x", 0)
    assert "steps" in (wrong.error or "")


def test_the_command_compares_two_archives(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "p.txt").write_text("red apple\ngreen apple\n")
    sides = [f"{server.url}/predictions/{model}#num_inference_steps=2" for model in ("plain", "hybridstitch")]
    command = ["compare", "--a", sides[0], "--b", f"{sides[1]}&recipe=small", "--prompts", str(tmp_path / "p.txt")]
    command += [
        "--key-file-a",
        str(server.key_file),
        "--key-file-b",
        str(server.key_file),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--seeds", "3", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"]["answered"] == 2
    assert report["failures"] == []
    assert report["endpoints"]["b"]["kind"] == "hybridstitch"
    token = server.token()
    assert token
    assert not any(token.encode() in path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file())

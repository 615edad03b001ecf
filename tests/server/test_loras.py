"""LoRA adapters in archives: packed, fused or named by requests, over a real server."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from hybridstitch import InvalidInput
from hybridstitch.cli import main as cli
from hybridstitch.model.lora_files import Fused
from hybridstitch.serving.client.client import Client
from hybridstitch.serving.client.replies import ServiceError
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.adapters import save_lora
from tests.support.handlers import CONFIG, call, make_handler
from tests.support.served import Connect
from tests.support.tiny import load_pipeline

FIELDS = {"prompt": "a dog", "seed": 3, "num_inference_steps": 3, "recipe": "t-stitch"}
PLAIN = {name: value for name, value in FIELDS.items() if name != "recipe"}


@pytest.fixture(scope="module")
def files(tiny_pipe, tmp_path_factory) -> Path:
    """A folder with adapters, and the settings that name them."""
    folder = tmp_path_factory.mktemp("loras")
    save_lora(folder / "large.safetensors", tiny_pipe.large)
    save_lora(folder / "small.safetensors", tiny_pipe.small, seed=1)
    loras = {
        "style": {"large": "large.safetensors", "small": "small.safetensors"},
        "soft": {"small": "small.safetensors"},
    }
    config = CONFIG | {"batchSize": 4, "handler": CONFIG["handler"] | {"loras": loras, "pictures_per_forward": 4}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def endpoints(server: Server, store: Path, tiny: Path, files: Path) -> Iterator[None]:
    """Both endpoints of the toy pair, with named adapters."""
    for name, plain in (("styled", False), ("styled-plain", True)):
        pack(tiny, out=store, name=name, plain=plain, config=files / "config.yaml")
        server.register(name)
    yield
    for name in ("styled", "styled-plain"):
        server.client.unregister(name)


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.int16)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_request_chooses_an_adapter_and_leaves_no_trace(endpoints, connect: Connect, transport: str) -> None:
    client = connect(transport)
    before = client.generate(**FIELDS, model="styled")
    styled = client.generate(**FIELDS, model="styled", lora={"style": 1.5})
    after = client.generate(**FIELDS, model="styled")
    assert before.image_bytes == after.image_bytes
    assert np.abs(picture(styled.image_bytes) - picture(before.image_bytes)).max() > 2
    assert styled.report["lora"] == {"style": 1.5}
    assert before.report["lora"] == {}
    # The request in the PNG generates the same picture again.
    kept = json.loads(Image.open(io.BytesIO(styled.image_bytes)).text["hybridstitch"])  # type: ignore[attr-defined]
    assert kept["lora"] == {"style": 1.5}
    again = client.predict(kept | {"response_format": "json"}, "styled").json()
    assert (
        again["data"][0]["b64_json"]
        == client.predict(FIELDS | {"lora": {"style": 1.5}, "response_format": "json"}, "styled").json()["data"][0][
            "b64_json"
        ]
    )


def test_recipe_large_with_an_adapter_is_the_picture_of_the_plain_endpoint(endpoints, client: Client) -> None:
    ours = client.generate(**FIELDS | {"recipe": "large"}, model="styled", lora={"style": 0.7})
    plain = client.generate(**PLAIN, model="styled-plain", lora={"style": 0.7})
    assert np.array_equal(picture(ours.image_bytes), picture(plain.image_bytes))
    # An adapter of the small model has no effect on either.
    soft = client.generate(**PLAIN, model="styled-plain", lora={"soft": 1})
    assert np.array_equal(
        picture(soft.image_bytes), picture(client.generate(**PLAIN, model="styled-plain").image_bytes)
    )


def test_unknown_adapters_are_refused_with_the_known_names(endpoints, client: Client, connect: Connect) -> None:
    for model in ("styled", "styled-plain"):
        fields = FIELDS if model == "styled" else PLAIN
        with pytest.raises(ServiceError) as caught:
            client.generate(**fields, model=model, lora={"stile": 1, "soft": 11})
        assert caught.value.status == 400
        problems = {each["field"]: each["expected"] for each in caught.value.problems}
        assert problems == {
            "lora.stile": "one of: soft, style; did you mean style?",
            "lora.soft": "a number within -10..10",
        }
    with pytest.raises(ServiceError) as caught:
        client.generate(**FIELDS, lora={"style": 1})
    assert [each["field"] for each in caught.value.problems] == ["lora.style"]
    described = client.describe("styled")[0]
    schema = json.dumps(described)
    assert '"style"' in schema
    assert '"loras"' in schema


def test_the_command_line_sends_the_adapter(endpoints, server: Server, tmp_path: Path, capsys) -> None:
    address = f"http://127.0.0.1:{server.ports['inference']}/predictions/styled"
    options = ["--url", address, "--key-file", str(server.key_file), "--out", str(tmp_path / "picture.png")]
    asked = ["a dog", "--seed", "3", "--num-inference-steps", "3", "--recipe", "t-stitch"]
    assert cli.main(["generate", *asked, "--lora", "style=1.5", "--lora", "soft=0.5", *options]) == 0
    assert "soft at 0.5, style at 1.5" in capsys.readouterr().out
    assert cli.main(["generate", *asked, "--lora", "style=much", *options]) == 2
    assert "NAME=SCALE" in capsys.readouterr().err


def test_a_batch_with_different_adapters_shares_no_forward(tiny: Path, files: Path, tmp_path: Path) -> None:
    archive = pack(tiny, out=tmp_path, archive_format="no-archive", config=files / "config.yaml")
    handler = make_handler(
        "hybridstitch_handler", archive / "pair", yaml.safe_load((files / "config.yaml").read_text())
    )
    sent = [FIELDS | extra for extra in ({}, {"lora": {"style": 1.5}}, {}, {"lora": {"style": 1.5, "soft": 0}})]
    rows = [{"body": {**each, "response_format": "json"}} for each in sent]
    together = [json.loads(answer) for answer in call(handler, rows)[0]]
    assert [each["report"]["batch_size"] for each in together] == [2, 2, 2, 2]
    alone = [json.loads(call(handler, [row])[0][0]) for row in rows]
    pairs = [[picture_of(each) for each in answers] for answers in (together, alone)]
    for one, other in zip(*pairs, strict=True):
        assert np.abs(one - other).max() <= 1
    assert np.abs(pairs[0][0] - pairs[0][1]).max() > 2


def picture_of(document: dict) -> np.ndarray:
    import base64

    return picture(base64.b64decode(document["data"][0]["b64_json"]))


def test_fused_adapters_of_the_options_are_in_the_weights(tiny: Path, files: Path, tmp_path: Path) -> None:
    large, small = (str(files / f"{model}.safetensors") for model in ("large", "small"))
    options = ["--lora-large", f"{large}:0.5", "--lora-large", f"{large}:0.25", "--lora-small", small]
    assert cli.main(["pack", "--pair", str(tiny), "--out", str(tmp_path), "--format", "no-archive", *options]) == 0
    fused, loaded = load_pipeline(tmp_path / "hybridstitch" / "pair"), load_pipeline(tiny)
    loaded.load_lora_weights(large, "large", scale=0.75)
    loaded.load_lora_weights(small, "small")
    for recipe in ("large", "small"):
        ours, theirs = (
            pipe(
                "a dog",
                recipe=recipe,
                generator=torch.Generator().manual_seed(0),
                num_inference_steps=3,
                output_type="pt",
            )
            for pipe in (fused, loaded)
        )
        torch.testing.assert_close(ours.images, theirs.images, atol=1e-3, rtol=0)
    # What was packed once is packed again with all of it, and more.
    again = pack(tmp_path / "hybridstitch" / "pair", out=tmp_path / "again", loras=[Fused("large", large, 0.1)])
    with zipfile.ZipFile(again) as archive:
        listed = json.loads(archive.read("pair/lora.json"))
        assert [each["scale"] for each in listed] == [0.5, 0.25, 1.0, 0.1]
        assert {f"pair/{each['file']}" for each in listed} <= set(archive.namelist())
    plain = pack(tiny, plain=True, out=tmp_path, archive_format="no-archive", loras=[Fused("large", large, 0.75)])
    handler = make_handler("plain_sd3_handler", plain / "pair")
    theirs = loaded("a dog", recipe="large", generator=torch.Generator().manual_seed(3), num_inference_steps=3).images[
        0
    ]
    ours = picture(call(handler, [{"body": PLAIN}])[0][0])
    assert np.abs(ours - np.asarray(theirs, dtype=np.int16)).max() <= 1


def test_files_that_do_not_fit_are_refused_by_name_when_packed(tiny: Path, files: Path, tmp_path: Path, capsys) -> None:
    large, small = (str(files / f"{model}.safetensors") for model in ("large", "small"))
    torch.save({}, tmp_path / "pickle.bin")
    save_file({"proj_out.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    wrong = {
        ("--lora-large", small): (small, "a LoRA of the large model"),
        ("--lora-small", large): (large, "small model"),
        ("--lora-large", str(tmp_path / "pickle.bin")): ("pickle.bin", "a .safetensors file"),
        ("--lora-large", str(tmp_path / "other.safetensors")): ("other.safetensors", "a LoRA, with tensors"),
        ("--lora-large", str(tmp_path / "none.safetensors")): ("none.safetensors", "an existing file"),
        ("--lora-large", f"{large}:much"): ("lora-large", "FILE or FILE:SCALE"),
        ("--lora-large", f"{large}:12"): ("lora-large", "-10..10"),
        ("--plain", "--lora-small", small): ("lora-small", "nothing: --plain"),
    }
    for options, words in wrong.items():
        assert cli.main(["pack", "--pair", str(tiny), "--out", str(tmp_path / "out"), *options]) == 2
        said = capsys.readouterr().err
        assert all(word in said for word in words), (options, said)
    for loras, field in (
        ({"a.b": {"large": large}}, "handler.loras.a.b"),
        ({"style": {"medium": large}}, "handler.loras.style"),
        ({"style": large}, "handler.loras.style"),
        ({"style": {"large": small}}, small),
    ):
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"handler": {"loras": loras}}))
        with pytest.raises(InvalidInput) as caught:
            pack(tiny, out=tmp_path / "out", config=config)
        assert [problem.field for problem in caught.value.problems] == [field]
    assert not [*(tmp_path / "out").glob("*.mar")]


def test_settings_that_name_an_adapter_outside_of_the_archive_are_refused(tiny: Path) -> None:
    config = CONFIG | {"handler": {"loras": {"style": {"large": "style.safetensors"}}}}
    with pytest.raises(InvalidInput, match=r"handler\.loras\.style\.large: expected a file in the archive"):
        make_handler("hybridstitch_handler", tiny, config)

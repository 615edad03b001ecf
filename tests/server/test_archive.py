"""What gets into an archive, and what never does."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.archive import pack
from hybridstitch.serving.manifest import archive_paths, by_version, read_archive
from tests.tiny import make_pipeline


def names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        return opened.namelist()


def fields(error: pytest.ExceptionInfo[InvalidInput]) -> list[str]:
    return [problem.field for problem in error.value.problems]


def test_an_archive_holds_everything_once_and_no_rubbish(tiny: Path, tmp_path: Path) -> None:
    archive = pack(tiny, out=tmp_path, name="my.model-1", version="2.0")
    assert archive == tmp_path / "my.model-1-2.0.mar"
    held = names(archive)
    assert len(set(held)) == len(held)
    for name in ("hybridstitch_handler.py", "model-config.yaml", "hybridstitch/pipeline.py", "pair/model_index.json"):
        assert name in held
    weights = [name for name in held if name.endswith(".safetensors")]
    assert sorted(Path(name).parent.name for name in weights) == [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "transformer_small",
        "vae",
    ]
    assert not [name for name in held if "__pycache__" in name]
    with zipfile.ZipFile(archive) as opened:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in opened.infolist())
        model = json.loads(opened.read("MAR-INF/MANIFEST.json"))["model"]
    assert (model["modelName"], model["modelVersion"], model["handler"]) == (
        "my.model-1",
        "2.0",
        "hybridstitch_handler.py",
    )
    assert list(tmp_path.iterdir()) == [archive]


def test_the_plain_archive_has_the_large_model_alone(tiny: Path, tmp_path: Path) -> None:
    held = names(pack(tiny, out=tmp_path, plain=True))
    assert "plain_sd3_handler.py" in held
    assert "hybridstitch_handler.py" not in held
    assert not [name for name in held if name.startswith("pair/transformer_small")]


def test_two_folders_make_a_pair(tiny: Path, tmp_path: Path) -> None:
    make_pipeline("sd35-medium").save_pretrained(tmp_path / "small")
    archive = pack(large=tiny, small=tmp_path / "small", out=tmp_path / "store")
    with zipfile.ZipFile(archive) as opened:
        packed = opened.read("pair/transformer_small/config.json")
    assert packed == (tmp_path / "small" / "transformer" / "config.json").read_bytes()


def test_an_archive_takes_along_what_its_pair_was_tuned_to(tiny: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "found.json"
    tuned.write_text('{"format": 1, "steps": 28, "named": {}, "points": []}')
    with zipfile.ZipFile(pack(tiny, out=tmp_path, recipes=tuned)) as archive:
        assert archive.read("pair/recipes.json") == tuned.read_bytes()
    tuned.write_text("[]")
    with pytest.raises(InvalidInput, match="recipes"):
        pack(tiny, out=tmp_path, recipes=tuned)


def test_two_folders_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    shutil.copytree(tiny, small)
    config = small / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"joint_attention_dim": 64}))
    with pytest.raises(InvalidInput) as refused:
        pack(large=tiny, small=small, out=tmp_path / "store")
    assert fields(refused) == ["transformer.joint_attention_dim"]


def test_a_pair_that_does_not_fit_is_refused(tiny: Path, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    shutil.copytree(tiny, pair)
    config = pair / "transformer_small" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"patch_size": 4}))
    with pytest.raises(InvalidInput) as refused:
        pack(pair, out=tmp_path / "store")
    assert fields(refused) == ["transformer.patch_size"]


def test_a_folder_instead_of_an_archive(tiny: Path, tmp_path: Path) -> None:
    folder = pack(tiny, out=tmp_path, archive_format="no-archive")
    assert (folder / "pair" / "transformer_small" / "config.json").is_file()
    assert archive_paths(tmp_path) == [folder]
    held = read_archive(folder)
    assert (held.name, held.version, held.unpacked_bytes) == ("hybridstitch", "1.0", 0)


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "a/b", "x" * 65, "é", "a\n"])
def test_names_and_versions_that_a_path_or_a_url_could_misread(tiny: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        pack(tiny, out=tmp_path, name=name)
    assert fields(refused) == ["name"]
    with pytest.raises(InvalidInput) as refused:
        pack(tiny, out=tmp_path, version=name)
    assert fields(refused) == ["version"]


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x.CKPT", "x.pkl", "transformer/x.pth"])
def test_pickled_weights_are_refused_by_name(tiny: Path, tmp_path: Path, name: str) -> None:
    pair = tmp_path / "pair"
    shutil.copytree(tiny, pair)
    (pair / name).write_bytes(b"")
    with pytest.raises(InvalidInput, match=name):
        pack(pair, out=tmp_path / "store")
    assert not list((tmp_path / "store").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "pair"),
        ({"pair": "nowhere"}, "pair"),
        ({"large": "nowhere"}, "small"),
        ({"pair": "nowhere", "small": "nowhere"}, "small"),
        ({"pair": "nowhere", "archive_format": "rar"}, "format"),
        ({"pair": "nowhere", "config": "nowhere.yaml"}, "config"),
        ({"pair": "nowhere", "extra_modules": ["nowhere.py"]}, "extra-module"),
        ({"pair": "nowhere", "extra_modules": [__file__.replace("test_archive", "__init__")] * 2}, "extra-module"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: dict, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        pack(**arguments, out=tmp_path)
    assert fields(refused) == [field]


def test_a_full_disk_is_noticed_before_anything_is_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    with pytest.raises(OSError, match=r"packing needs \d\d MiB on the disk of .*, 1 MiB are free"):
        pack(tiny, out=tmp_path / "store")
    assert not list((tmp_path / "store").iterdir())


def test_packing_again_replaces_the_archive(tiny: Path, tmp_path: Path) -> None:
    for archive_format in ("zip-store", "default", "no-archive"):
        first, second = (pack(tiny, out=tmp_path, archive_format=archive_format) for _ in range(2))
        assert first == second


def test_packing_says_the_disk_that_it_takes_at_most(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    weights = sum(file.stat().st_size for file in tiny.rglob("*") if file.is_file())
    archive = pack(tiny, out=tmp_path)
    said = next(record.getMessage() for record in caplog.records if "needs" in record.getMessage())
    assert f"{(2 * weights + 2**24) / 2**20:.0f} MiB" in said
    assert weights <= archive.stat().st_size < weights + 2**23  # the second copy; the first one is gone


def test_versions_lie_side_by_side_and_come_in_order(tiny: Path, tmp_path: Path) -> None:
    for version in ("10.0", "1.0", "2.0"):
        pack(tiny, out=tmp_path, name="m", version=version)
    assert {path.name for path in archive_paths(tmp_path)} == {"m.mar", "m-2.0.mar", "m-10.0.mar"}
    ordered = sorted(map(read_archive, archive_paths(tmp_path)), key=by_version)
    assert [(each.name, each.version) for each in ordered] == [("m", "1.0"), ("m", "2.0"), ("m", "10.0")]


def test_another_models_archive_is_not_replaced(tiny: Path, tmp_path: Path) -> None:
    archive = pack(tiny, out=tmp_path, name="m", version="2.0")
    before = archive.read_bytes()
    with pytest.raises(InvalidInput, match=r"m-2\.0\.mar holds version 2\.0 of m"):
        pack(tiny, out=tmp_path, name="m-2.0")
    assert archive.read_bytes() == before
    archive.write_bytes(before[:1000])  # what is not whole may be packed again
    assert read_archive(pack(tiny, out=tmp_path, name="m", version="2.0")).version == "2.0"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\x00" * 18])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.mar").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"odd\.mar"):
        read_archive(tmp_path / "odd.mar")

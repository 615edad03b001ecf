"""What gets into an archive, and what never does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.manifest import archive_paths, by_version, read_archive
from hybridstitch.serving.server.pack import pack
from tests.support.tiny import make_pipeline

INIT = __file__.replace("test_archive", "__init__")


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


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_an_archive_carries_no_code_that_a_worker_does_not_run(tiny: Path, tmp_path: Path, plain: bool) -> None:
    archive = pack(tiny, out=tmp_path, plain=plain, archive_format="no-archive")
    rooms = {path.relative_to(archive / "hybridstitch").parts[0] for path in archive.glob("hybridstitch/*")}
    assert not rooms & {"bench", "cli", "compare", "html", "measure", "testing", "tune"}
    assert {path.name for path in archive.glob("hybridstitch/serving/*")} >= {"client", "worker"}
    assert not {path.name for path in archive.glob("hybridstitch/serving/*")} & {"doctor", "server"}
    handler = "plain_sd3_handler" if plain else "hybridstitch_handler"
    code = f"import sys; sys.path.insert(0, {str(archive)!r}); import {handler}, hybridstitch as h; print(h.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == archive / "hybridstitch" / "__init__.py"


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


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({}, {"pair": "the folder of a packed pair, or large and small"}),
        ({"plain": True}, {"large": "pair or large"}),
        ({"pair": "nowhere"}, {"pair": "no such folder"}),
        ({"pair": __file__}, {"pair": "no such folder"}),
        ({"large": "nowhere"}, {"large": "no such folder", "small": "both large and small"}),
        ({"small": "nowhere"}, {"large": "both large and small", "small": "no such folder"}),
        ({"large": "TINY", "small": "nowhere"}, {"small": "no such folder"}),
        ({"pair": "nowhere", "small": "nowhere"}, {"pair": "either a packed pair, or large and small"}),
        ({"large": "TINY", "small": "TINY", "plain": True}, {"small": "plain takes the large model alone"}),
        ({"pair": "EMPTY"}, {"pair": "`pack --plain` takes one model"}),
        ({"pair": "EMPTY", "plain": True}, {"model_index.json": "an existing file"}),
        ({"pair": "TINY", "archive_format": "rar"}, {"format": "zip-store"}),
        ({"pair": "TINY", "config": "nowhere.yaml"}, {"config": "existing"}),
        ({"pair": "TINY", "recipes": "nowhere.json"}, {"recipes": "hybridstitch tune"}),
        ({"pair": "TINY", "variant": "fp16"}, {"variant": "*.fp16.safetensors"}),
        ({"pair": "TINY", "without": ["vae"]}, {"without": "one of: text_encoder_3"}),
        ({"pair": "TINY", "extra_modules": ["nowhere.py"]}, {"extra-module": "existing"}),
        ({"pair": "TINY", "extra_modules": [INIT, INIT]}, {"extra-module": "a name other than __init__"}),
        (
            {"pair": "TINY", "extra_modules": ["EMPTY/statistics.py"]},
            {"extra-module": "statistics, which is an installed"},
        ),
        ({"pair": "TINY", "extra_modules": ["EMPTY/torch.py"]}, {"extra-module": "torch, which is an installed"}),
        ({"pair": "TINY", "extra_modules": ["EMPTY/hybridstitch.py"]}, {"extra-module": "other than hybridstitch"}),
        ({"pair": "TINY", "out": "EMPTY/my.mar"}, {"out": "a folder, the model store; the archive in it is called"}),
        ({"pair": "TINY", "out": "EMPTY/statistics.py"}, {"out": "a folder, the model store"}),
    ],
)
def test_wrong_arguments_are_named_with_what_to_give(
    tiny: Path, tmp_path: Path, arguments: dict[str, Any], problems: dict[str, str]
) -> None:
    for name in ("statistics", "torch", "hybridstitch"):
        (tmp_path / f"{name}.py").touch()

    def real(value: Any) -> Any:
        if isinstance(value, list):
            return [real(each) for each in value]
        return value.replace("TINY", str(tiny)).replace("EMPTY", str(tmp_path)) if isinstance(value, str) else value

    given = {"out": str(tmp_path / "store"), **{name: real(value) for name, value in arguments.items()}}
    with pytest.raises(InvalidInput) as refused:
        pack(**given)
    found = {Path(problem.field).name: problem.expected for problem in refused.value.problems}
    assert found.keys() == problems.keys()
    for field, words in problems.items():
        assert words in found[field]


CONFIG = """
handler:
  defaults: {defaults}
  strategies: {{masks: {{mine: "{module}:Mine"}}}}
"""
MASK = """
from hybridstitch.masks import MaskStrategy
class Mine(MaskStrategy):
    type = "mine"
    def scores(self, trajectory):
        raise NotImplementedError
"""


@pytest.mark.parametrize(
    ("defaults", "module", "field"),
    [
        ("{recipe: small, width: 32}", "my_masks", None),
        ("{recipe: {name: hybridstitch, mask: mine}}", "my_masks", None),
        ("{recipe: nope}", "my_masks", "handler.defaults.recipe"),
        ("{num_inference_steps: 500}", "my_masks", "handler.defaults.num_inference_steps"),
        ("{width: 33}", "my_masks", "handler.defaults.width"),
        ("{height: 100000}", "my_masks", "handler.defaults.height"),
        ("{speed: 5}", "my_masks", "handler.defaults.speed"),
        ("{steps: 2}", "my_masks", "handler.defaults.steps"),
        ("{}", "your_masks", "handler.strategies.masks.mine"),
        ("{}", "beside", "handler.strategies.masks.mine"),
        ("{}", "leaving", "handler.strategies.masks.mine"),
    ],
)
def test_defaults_and_strategies_are_tried_before_anything_is_packed(
    tiny: Path, tmp_path: Path, defaults: str, module: str, field: str | None
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(defaults=defaults, module=module))
    for name in ("my_masks", "beside"):
        (tmp_path / f"{name}.py").write_text(MASK)
    (tmp_path / "leaving.py").write_text("raise SystemExit")
    modules = [tmp_path / "my_masks.py", tmp_path / "leaving.py"]
    given: dict[str, Any] = {"config": tmp_path / "config.yaml", "extra_modules": modules}
    if field is None:
        assert "my_masks.py" in names(pack(tiny, out=tmp_path / "store", **given))
        return
    with pytest.raises(InvalidInput) as refused:
        pack(tiny, out=tmp_path / "store", **given)
    assert fields(refused) == [field]
    assert not list((tmp_path / "store").iterdir())


@pytest.fixture(scope="module")
def two_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `large` and a `small` pipeline."""
    folder = tmp_path_factory.mktemp("two")
    make_pipeline("sd35-large").save_pretrained(folder / "large")
    make_pipeline("sd35-medium", layers=2, heads=1).save_pretrained(folder / "small")
    return folder


@pytest.mark.parametrize(
    ("sides", "level", "ratio"),
    [
        (("large", "small"), "INFO", r"2\.7\d"),
        (("small", "large"), "WARNING", r"0\.3\d"),
        (("large", "large"), "WARNING", "1.00"),
    ],
)
def test_packing_says_what_the_small_model_saves(
    two_folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, sides: tuple[str, str], level: str, ratio: str
) -> None:
    caplog.set_level("INFO", logger="hybridstitch")
    pack(large=two_folders / sides[0], small=two_folders / sides[1], out=tmp_path / "store")
    (said,) = [record for record in caplog.records if "FLOPs" in record.getMessage()]
    assert said.levelname == level
    assert re.search(rf"takes {ratio} times the FLOPs of the small one", said.getMessage())


def test_a_full_disk_is_noticed_before_anything_is_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    with pytest.raises(OSError, match=r"packing needs \d\d MiB on the disk of .*, 1 MiB are free"):
        pack(tiny, out=tmp_path / "store")
    assert not list((tmp_path / "store").iterdir())


def test_packing_again_replaces_the_archive_in_whatever_format(tiny: Path, tmp_path: Path) -> None:
    for archive_format in ("zip-store", "default", "no-archive", "link", "no-archive", "zip-store"):
        archive = pack(tiny, out=tmp_path, archive_format=archive_format)
        assert archive_paths(tmp_path) == [archive]


def test_packing_says_the_disk_that_it_takes_at_most(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    weights = sum(file.stat().st_size for file in tiny.rglob("*") if file.is_file())
    archive = pack(tiny, out=tmp_path)
    said = next(record.getMessage() for record in caplog.records if "needs" in record.getMessage())
    assert f"{(weights + 2**24) / 2**20:.0f} MiB" in said
    assert weights <= archive.stat().st_size < weights + 2**23


def test_versions_lie_side_by_side_and_come_in_order(tiny: Path, tmp_path: Path) -> None:
    for version in ("10.0", "1.0", "2.0"):
        pack(tiny, out=tmp_path, name="m", version=version)
    assert {path.name for path in archive_paths(tmp_path)} == {"m.mar", "m-2.0.mar", "m-10.0.mar"}
    ordered = sorted(map(read_archive, archive_paths(tmp_path)), key=by_version)
    assert [(each.name, each.version) for each in ordered] == [("m", "1.0"), ("m", "2.0"), ("m", "10.0")]


def test_another_models_or_kinds_archive_is_replaced_by_force_only(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="hybridstitch")
    archive = pack(tiny, out=tmp_path, name="m", version="2.0")
    before = archive.read_bytes()
    others: list[dict[str, Any]] = [
        {"name": "m-2.0"},
        {"name": "m", "version": "2.0", "plain": True},
        {"name": "m", "version": "2.0", "plain": True, "archive_format": "no-archive"},
    ]
    for other in others:
        with pytest.raises(InvalidInput, match=r"m-2\.0\.mar holds version 2\.0 of m .*--force") as refused:
            pack(tiny, out=tmp_path, **other)
        assert fields(refused) == ["name"]
        assert archive.read_bytes() == before
    assert "replacing" not in caplog.text
    folder = pack(tiny, out=tmp_path, **others[-1], force=True)
    assert f"replacing {archive}" in caplog.text
    assert archive_paths(tmp_path) == [folder]


def test_what_is_not_whole_may_be_packed_again_and_what_is_no_archive_stays(tiny: Path, tmp_path: Path) -> None:
    archive = pack(tiny, out=tmp_path, name="m")
    archive.write_bytes(archive.read_bytes()[:1000])
    assert read_archive(pack(tiny, out=tmp_path, name="m")).version == "1.0"
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidInput, match="a whole archive"):
        pack(tiny, out=tmp_path, name="mine", archive_format="no-archive", force=True)
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\x00" * 18])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.mar").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"odd\.mar"):
        read_archive(tmp_path / "odd.mar")


@pytest.mark.parametrize("model", [{"modelName": "m", "modelVersion": 1.0}, {"modelName": 7}, {"modelName": None}, []])
def test_a_manifest_with_other_values_than_texts_is_named(tmp_path: Path, model: Any) -> None:
    """Archives are ordered by name and version: one that cannot be ordered must not end `serve`."""
    with zipfile.ZipFile(tmp_path / "odd.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
    with pytest.raises(InvalidInput, match=r"odd\.mar"):
        read_archive(tmp_path / "odd.mar")

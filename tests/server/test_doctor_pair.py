"""The plan of memory and disk that the doctor prints for a pair, before anything is loaded."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput
from hybridstitch.model.memory import MemoryPlan
from hybridstitch.model.pair import find_files
from hybridstitch.serving.capacity import Capacity
from tests.support.sparse import SIZES, make_full_size_folder

GIB = 2**30


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_full_size_folder(tmp_path_factory.mktemp("full") / "sd35")


def examined(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = main(["doctor", *options, "--json"])
    return code, {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_a_pair_that_fits(emoji: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = examined(capsys, "--pair", str(emoji), "--device", "cpu", "--dtype", "float32")
    assert code == 0
    assert list(findings) == ["files", "weights", "pictures", "sizes", "loading", "disk"]
    assert all(finding["ok"] and not finding["advice"] for finding in findings.values())
    assert findings["weights"]["detail"].startswith("67 MiB in float32 (as set): transformer 40 MiB, vae")
    assert "K/V cache 7 MiB" in findings["pictures"]["detail"]
    assert "8 of 8 pictures_per_forward" in findings["pictures"]["detail"]
    assert "squares of 32 to 128 pixels by the models, up to 128 by the memory" in findings["sizes"]["detail"]


def test_two_folders(emoji: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = examined(capsys, "--large", str(emoji), "--small", str(emoji), "--dtype", "bfloat16")
    assert code == 0
    assert "transformer_small 20 MiB" in findings["weights"]["detail"]


def test_full_size_without_enough_memory(full_size: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "model-config.yaml"
    config.write_text("handler: {dtype: float32, max_memory_mib: 4000, pictures_per_forward: 4}")
    started = time.process_time()
    code, findings = examined(capsys, "--pair", str(full_size), "--device", "cpu", "--config", str(config))
    assert time.process_time() - started < 20, "headers alone are read"
    assert code == 1
    weights = findings["weights"]
    assert weights["ok"] is False
    assert f"transformer {4 * SIZES['transformer'][1] / GIB:.1f} GiB" in weights["detail"]
    assert weights["detail"].endswith("of 3.9 GiB free on cpu")
    assert weights["advice"] == "needs less with handler.dtype bfloat16"
    assert findings["pictures"]["ok"] is False
    assert "0 of 4 pictures_per_forward" in findings["pictures"]["detail"]


def test_full_size_as_stored_is_mapped_from_its_files(full_size: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, findings = examined(capsys, "--pair", str(full_size), "--device", "cpu", "--dtype", "bfloat16")
    assert findings["weights"]["ok"]
    assert "transformer 15.2 GiB (mapped from the files)" in findings["weights"]["detail"]


def test_the_plan_of_a_gpu(full_size: Path) -> None:
    plan = MemoryPlan.of(find_files(full_size, None, None))
    large, small = (2 * SIZES[part][1] for part in ("transformer", "transformer_small"))
    on_24, on_80 = (Capacity(plan, "bfloat16", "cuda:0", size * GIB) for size in (24, 80))
    assert sum(on_24.weights.values()) == sum(plan.weight_bytes("bfloat16").values())
    assert on_24.pictures(1024, 1024) == 0 < on_80.pictures(1024, 1024)
    assert on_80.largest_side == 3072
    placed = {
        ("cpu", "none"): large + small + 2 * SIZES["vae"][1],
        ("offload", "none"): large + small + 2 * SIZES["vae"][1],
        ("device", "model"): large,
        ("offload", "group"): (large + small) // 10 + 2 * SIZES["vae"][1],
    }
    for (text_encoders, offload), expected in placed.items():
        capacity = Capacity(plan, "bfloat16", "cuda:0", 24 * GIB, text_encoders, offload)
        assert sum(capacity.weights.values()) == pytest.approx(expected, abs=2), (text_encoders, offload)
    assert Capacity(plan, "bfloat16", "cuda:0", 24 * GIB, "offload", "group").pictures(1024, 1024) == 4


def test_the_plan_of_two_gpus(full_size: Path) -> None:
    """The small model takes memory of its own device alone, which bounds the pictures as well."""
    plan = MemoryPlan.of(find_files(full_size, None, None))
    small, rest = 2 * SIZES["transformer_small"][1], sum(plan.weight_bytes("bfloat16").values())
    one, two = (Capacity(plan, "bfloat16", "cuda:0", 80 * GIB, lora=GIB, small_free=free) for free in (None, 80 * GIB))
    assert sum(one.weights.values()) == rest + GIB
    assert sum(two.weights.values()) == pytest.approx(rest + GIB - small, abs=2)
    assert two.pictures(1024, 1024) > one.pictures(1024, 1024)
    both = ("transformer", "transformer_small")
    assert two.pictures(1024, 1024, cached=both) == two.pictures(1024, 1024)
    narrow = replace(two, small_free=int(1.2 * small))
    assert narrow.pictures(1024, 1024, cached=both) < narrow.pictures(1024, 1024) < two.pictures(1024, 1024)
    two.check()
    with pytest.raises(InvalidInput, match=r"memory of the device of the small model: expected .* GiB for the weights"):
        replace(two, small_free=small).check()


def test_devices_of_the_settings(emoji: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "model-config.yaml"
    config.write_text("handler: {devices: [cpu, 'cpu:0']}")
    code, findings = examined(capsys, "--pair", str(emoji), "--config", str(config))
    assert code == 0
    assert "transformer_small 15 MiB; " in findings["weights"]["detail"], "both names are one memory"
    config.write_text("handler: {devices: [cpu, 'cuda:7']}")
    assert main(["doctor", "--pair", str(emoji), "--config", str(config)]) == 2
    assert "handler.devices: expected a device that torch finds here" in capsys.readouterr().err


def test_models_that_do_not_fit_together(
    emoji: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    code, findings = examined(capsys, "--large", str(emoji), "--small", str(tiny))
    assert code == 1
    assert "transformer.in_channels" in findings
    assert not any(finding["ok"] for finding in findings.values())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--pair", "models/emoji", "--url", "http://127.0.0.1:8080", "--heal"], ["--url", "--heal"]),
        (["--device", "cpu", "--dtype", "float32"], ["--device", "--dtype"]),
        (["--large", "models/emoji"], ["--small"]),
        (["--pair", "models/emoji", "--large", "models/emoji"], ["--pair"]),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == named

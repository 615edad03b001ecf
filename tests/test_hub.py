"""Models by hub id: a real download from a hub on this machine takes what the loader reads, once, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub import hub
from tests.support.layouts import LARGE_ID, LAYOUTS, SMALL_ID, make_two

LOAD = """
import sys
from hybridstitch import HybridStitchPipeline, InvalidInput
from hybridstitch.serving.server.pack import pack
_, ids, small, variant, without, store = sys.argv
for large in ids.split():
    source = {"large": large, "small": small, "variant": variant or None, "without": without.split()}
    try:
        pipe = HybridStitchPipeline.from_pretrained(**source)
        print("loaded", pipe.components["text_encoder_3"] is not None)
        print("packed", pack(**source, out=store, archive_format="link").name)
    except InvalidInput as error:
        print("refused", error)
"""


def loaded(
    tmp_path: Path, address: str, large: str = LARGE_ID, variant: str = "", without: str = "", offline: bool = False
) -> str:
    """What loading and packing say, in a process with a cache of its own."""
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "none"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    command = [sys.executable, "-c", LOAD, large, SMALL_ID, variant, without, str(tmp_path / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected(two: Path, variant: bool, third: bool) -> set[str]:
    """The files that the loader reads, as `id/file`."""
    small = {"transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"}
    wanted = set()
    for file in [path for path in two.rglob("*") if path.is_file()]:
        side, *inside = file.relative_to(two).parts
        name, is_weights = "/".join(inside), ".safetensors" in file.name
        is_of_small = name in small or (is_weights and name.startswith("transformer/"))
        if (
            (side == "large" or is_of_small)
            and (third or "_3/" not in name)
            and ((".fp16" in name) == variant if is_weights else file.suffix == ".json")
        ):
            wanted.add(f"makers/{side}/{name}")
    return wanted


@pytest.mark.parametrize(
    ("layout", "variant", "without"),
    [
        ("plain and fp16, fp16", "", ""),
        ("fp16 beside, sharded", "fp16", "text_encoder_3"),
    ],
)
def test_only_what_the_loader_reads_is_downloaded_and_a_second_time_none(
    tmp_path: Path, layout: str, variant: str, without: str
) -> None:
    two = make_two(tmp_path / "two")
    LAYOUTS[layout].prepare(two)
    LAYOUTS["stray pickles"].prepare(two)
    (two / "large" / "sd3.5_large.safetensors").write_bytes(b"x")
    with hub({LARGE_ID: two / "large", SMALL_ID: two / "small"}) as (address, sent):
        assert (
            loaded(tmp_path, address, variant=variant, without=without)
            == f"loaded {not without}\npacked hybridstitch\n"
        )
        assert {*sent} == expected(two, bool(variant), not without) - {"makers/large/sd3.5_large.safetensors"}
        assert len(sent) == len({*sent})
    again = loaded(tmp_path, address, variant=variant, without=without, offline=True)
    assert again == f"loaded {not without}\npacked hybridstitch\n"


def test_what_the_hub_does_not_give_is_named_with_what_to_do(tmp_path: Path) -> None:
    two = make_two(tmp_path / "two")
    (two / "large" / "vae" / "diffusion_pytorch_model.safetensors").rename(two / "large" / "vae" / "other.bin")
    with hub({LARGE_ID: two / "large", SMALL_ID: two / "small", "makers/gated": two / "small"}, ("makers/gated",)) as (
        address,
        _,
    ):
        nobody, gated, pickled = loaded(tmp_path, address, f"makers/nobody makers/gated {LARGE_ID}").splitlines()
    assert nobody.startswith("refused large: expected a model that you may read on the hub")
    assert "makers/gated, then `hf auth login`" in gated
    assert f"{LARGE_ID}/vae: expected weights as safetensors" in pickled

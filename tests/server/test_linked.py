"""`pack --format link`: registered, served, examined and replaced as any other archive, without a second copy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.doctor import examine
from hybridstitch.serving.manifest import archive_paths, read_archive
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.served import QUICK

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the store's, where no hard link from the store reaches."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.fail("expected /dev/shm on another file system than the temporary folder")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("is_other", [False, True], ids=["hard links", "symbolic links"])
def test_a_linked_archive_is_served_as_any_other(
    server: Server, store: Path, tiny: Path, tmp_path: Path, other_disk: Path, is_other: bool
) -> None:
    pair = shutil.copytree(tiny, (other_disk if is_other else tmp_path) / "pair")
    folder = pack(pair, out=store, name="linked", archive_format="link")
    weights = folder / "pair" / WEIGHTS
    assert weights.is_symlink() == is_other
    assert os.path.samefile(weights, pair / WEIGHTS)
    assert read_archive(folder).unpacked_bytes == 0
    server.register("linked", folder.name)
    try:
        described = server.client.describe("linked")[0]["customizedMetadata"]
        assert (described["copy_on_disk"], described["dtype"]) == (True, "float32")
        assert server.client.generate(**QUICK, model="linked").report["dtype"] == "float32"
        found = examine(server.url, management_url=server.management_url, key_file=server.key_file, timeout=120)
        (linked,) = [check for check in found if "linked" in check.name]
        assert linked.ok is True, linked
    finally:
        server.client.unregister("linked")
        shutil.rmtree(folder)
    assert (pair / WEIGHTS).is_file()


def test_links_and_copies_replace_each_other_and_leave_the_sources(tiny: Path, tmp_path: Path) -> None:
    before = (tiny / WEIGHTS).read_bytes()
    for archive_format in ("link", "zip-store", "link", "no-archive", "link"):
        archive = pack(tiny, out=tmp_path, archive_format=archive_format)
        assert archive_paths(tmp_path) == [archive]
        assert (tiny / WEIGHTS).read_bytes() == before
    with pytest.raises(InvalidInput, match="--force replaces it"):
        pack(tiny, out=tmp_path, plain=True, name="hybridstitch", archive_format="link")
    assert pack(tiny, out=tmp_path, plain=True, name="hybridstitch", archive_format="link", force=True).is_dir()
    assert (tiny / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize(
    ("archive_format", "copies"), [("zip-store", 1), ("default", 1), ("no-archive", 1), ("link", 0)]
)
def test_the_disk_check_takes_what_a_format_needs(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive_format: str, copies: int
) -> None:
    files = [file for file in tiny.rglob("*") if file.is_file()]
    needed = 2**24 + sum(file.stat().st_size for file in files if copies or file.suffix != ".safetensors")
    usage, free = namedtuple("usage", "total used free"), [needed - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, free[0]))
    with pytest.raises(OSError, match="packing needs"):
        pack(tiny, out=tmp_path / "store", archive_format=archive_format)
    free[0] = needed
    assert pack(tiny, out=tmp_path / "store", archive_format=archive_format).exists()

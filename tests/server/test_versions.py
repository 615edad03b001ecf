"""Versions and formats side by side on the real TorchServe, and what a failed registration leaves: nothing."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.archives import with_settings
from tests.support.served import QUICK


@pytest.fixture(scope="module")
def flip(server: Server, store: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model in two versions that differ in the recipe of requests that name none; the second one is a folder."""
    for version, recipe, archive_format in (("1.0", "large", "zip-store"), ("2.0", "small", "no-archive")):
        config = tmp_path_factory.mktemp("config") / "config.yaml"
        config.write_text(f"handler: {{defaults: {{recipe: {recipe}}}}}")
        path = pack(tiny, out=store, name="flip", version=version, config=config, archive_format=archive_format)
        server.register("flip", path.name)
    yield "flip"
    for version in ("2.0", "1.0"):
        if version in server.versions("flip"):
            server.client.unregister("flip", version)


def recipe_of(server: Server, path: str) -> str:
    return server.client.generate(**QUICK, model=path).report["recipe"]["name"]


def test_two_versions_side_by_side_and_the_default_flipped(server: Server, flip: str) -> None:
    assert server.versions(flip) == ["1.0", "2.0"]
    assert [recipe_of(server, path) for path in ("flip", "flip/1.0", "flip/2.0")] == ["large", "large", "small"]
    server.client.set_default(flip, "2.0")
    assert [recipe_of(server, path) for path in ("flip", "flip/1.0", "flip/2.0")] == ["small", "large", "small"]
    server.client.set_default(flip, "1.0")
    assert recipe_of(server, "flip") == "large"


def leftovers(server: Server) -> set[str]:
    """What TorchServe keeps below the server's home, but for its sockets and logs."""
    found = [*server.home.iterdir(), *(server.home / "models").iterdir()]
    return {str(path.relative_to(server.home)) for path in found if not path.name.startswith(".ts.sock")}


def broken(store: Path, tiny: Path, archive_format: str = "zip-store") -> str:
    """An archive whose worker does not start."""
    archive = pack(tiny, out=store, name="failing", archive_format=archive_format)
    return with_settings(archive, "handler: {dtype: int3}").name


@pytest.mark.parametrize("archive_format", ["zip-store", "no-archive"])
def test_nothing_is_left_of_a_worker_that_does_not_start(
    server: Server, flip: str, store: Path, tiny: Path, archive_format: str
) -> None:
    archive, before = broken(store, tiny, archive_format), leftovers(server)
    with pytest.raises(RuntimeError, match=r"handler\.dtype"):
        server.register("failing", archive)
    assert leftovers(server) == before
    assert (store / archive).exists()


def test_nothing_is_left_of_a_damaged_archive(server: Server, flip: str, store: Path, tiny: Path) -> None:
    path = pack(tiny, out=store, name="damaged")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # the list at its end, and so the manifest, stays readable
    path.write_bytes(content)
    before = leftovers(server)
    with pytest.raises(RuntimeError, match="damaged"):
        server.register("damaged")
    assert leftovers(server) == before
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match="archive: expected a whole archive"):
        server.register("damaged")
    assert leftovers(server) == before


@pytest.mark.parametrize("archive", ["flip.mar", "flip-2.0"])
def test_a_registered_version_is_refused_before_anything_is_copied(server: Server, flip: str, archive: str) -> None:
    before = leftovers(server)
    with pytest.raises(InvalidInput, match="version: expected one that is not registered for flip yet"):
        server.register(flip, archive)
    assert leftovers(server) == before


@pytest.mark.parametrize("archive", ["flip.mar", "flip-2.0"])
def test_nothing_is_left_of_a_version_that_somebody_else_registered_first(
    server: Server, flip: str, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = leftovers(server)
    monkeypatch.setattr(server, "versions", lambda _: [])  # it came after the look
    with pytest.raises(RuntimeError, match="409"):
        server.register(flip, archive)
    assert leftovers(server) == before
    assert recipe_of(server, "flip/1.0") == "large"
    assert recipe_of(server, "flip/2.0") == "small"


def test_a_registration_of_somebody_else_is_not_cleaned_away(
    server: Server, flip: str, store: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tiny, out=store, name="other")
    monkeypatch.setattr(server, "versions", lambda _: [])
    other = threading.Thread(target=server.client.register, args=("other.mar", "other"))
    other.start()
    with pytest.raises(RuntimeError, match="409"):
        server.register(flip)
    other.join()
    try:
        assert server.client.generate(**QUICK, model="other").seed == 7
    finally:
        server.client.unregister("other")


def test_an_archive_that_is_not_in_the_store(server: Server, flip: str, store: Path, tiny: Path) -> None:
    before = leftovers(server)
    for archive in (None, "nothing.mar", "/etc/hostname", f"../{store.name}/flip.mar", "sub/flip.mar"):
        with pytest.raises(InvalidInput) as refused:
            server.register("nothing", archive)
        assert [problem.field for problem in refused.value.problems] == ["archive"]
    for register in (server.register, lambda name: server.client.register("flip.mar", name)):
        with pytest.raises(InvalidInput, match="model: expected letters"):
            register("a b/c")
    assert leftovers(server) == before


def test_a_copy_that_does_not_fit_is_refused_with_both_numbers(
    server: Server, flip: str, store: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = pack(tiny, out=store, name="large"), leftovers(server)
    usage: Any = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**10))
    with pytest.raises(OSError, match=rf"large\.mar needs {path.stat().st_size / 2**20:.0f} MiB on .* 0 MiB are free"):
        server.register("large")
    assert leftovers(server) == before


@pytest.mark.server
def test_serve_fails_if_nothing_is_left(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "cut.mar").write_bytes(b"")
    assert main(["serve", "--store", str(tmp_path), "--port", "0", "--no-auth"]) == 1
    assert "no archive of the store could be registered" in capsys.readouterr().err

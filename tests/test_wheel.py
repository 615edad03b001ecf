"""The wheel and the source distribution hold all that the commands need outside of a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hybridstitch.base.paths import ROOT

pytestmark = pytest.mark.slow

BESIDE = {
    "config.properties",
    "handler/hybridstitch_handler.py",
    "handler/metrics.yaml",
    "handler/model-config.yaml",
    "handler/plain_sd3_handler.py",
    "models/emoji/heldout_prompts.txt",
}
"""Files of a checkout that commands read, and that lie outside the package."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions. The wheel is built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with the wheel alone."""
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, *built.glob("*.whl"))
    return folder


def run(*command: object, **options: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def command(site: Path, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`hybridstitch` of the wheel, in a folder that is no checkout."""
    return subprocess.run(
        [sys.executable, "-m", "hybridstitch.cli.main", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_distributions_hold_every_file_that_commands_read(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        for name in BESIDE:
            assert wheel.read(f"hybridstitch/_files/{name}") == (ROOT / name).read_bytes()
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "hybridstitch").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert held == package | {f"hybridstitch/_files/{name}" for name in BESIDE}
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        assert {name.partition("/")[2] for name in source.getnames()} >= package | BESIDE


def test_an_installed_wheel_packs_an_archive_anywhere(site: Path, tiny: Path, tmp_path: Path) -> None:
    done = command(site, tmp_path, "pack", "--pair", tiny)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "model_store" / "hybridstitch.mar") as archive:
        held = archive.namelist()
        assert archive.read("model-config.yaml") == (ROOT / "handler" / "model-config.yaml").read_bytes()
        assert archive.read("hybridstitch_handler.py") == (ROOT / "handler" / "hybridstitch_handler.py").read_bytes()
    assert "hybridstitch/pipeline.py" in held
    assert not [name for name in held if name.startswith("hybridstitch/_files")]


@pytest.mark.parametrize("name", ["demo", "generate x", "recipes"])
def test_without_the_embedded_pair_a_command_names_the_option(site: Path, tmp_path: Path, name: str) -> None:
    done = command(site, tmp_path, *name.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --pair: expected a folder: an installed package lacks the embedded pair")
    # A bench without weights needs no pair.
    done = command(site, tmp_path, "bench", "--scale", "sd35", "--recipes", "largest")
    assert done.stderr.startswith("error: --recipes: expected")
    assert done.stderr.count("\n") == 1

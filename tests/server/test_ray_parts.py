"""The parts of the endpoint on Ray Serve that need no Ray: bodies, metrics, options and archives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hybridstitch.base.paths import EMBEDDED_PAIR, ROOT
from hybridstitch.cli.main import main
from hybridstitch.serving.config import read_config
from hybridstitch.serving.manifest import read_archive
from hybridstitch.serving.ray.body import values_of
from hybridstitch.serving.ray.counts import BUCKETS, Counts
from hybridstitch.serving.ray.front import lost_piece, server_error
from hybridstitch.serving.ray.server import RayServer, archive_of_pair, unpacked
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.worker.exchange import NOTHING
from hybridstitch.serving.worker.messages import LAST, Count
from hybridstitch.wire.dialects.dialect import Dialect
from hybridstitch.wire.dialects.openai import OpenAIImages
from hybridstitch.wire.dialects.own import Own
from hybridstitch.wire.failures import Failure

MULTIPART = "multipart/form-data; boundary=x"


def test_bodies_become_values() -> None:
    assert values_of(b"{}", "application/json") == ({"body": b"{}"}, {})
    form = "application/x-www-form-urlencoded"
    assert values_of(b"prompt=red+apple&seed=&x=%ff", form) == ({"prompt": "red apple", "seed": "", "x": "\ufffd"}, {})
    body = (
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nred \xc3\xa9\r\n'
        b'--x\r\nContent-Disposition: form-data; name="seed"; filename="a"\r\n'
        b"Content-Type: application/json\r\n\r\n7\r\n"
        b'--x\r\nContent-Disposition: form-data; name="b"\r\nContent-Type: application/json\r\n\r\n{\r\n--x--\r\n'
    )
    values, types = values_of(body, MULTIPART)
    assert values == {"prompt": "red \u00e9".encode(), "seed": 7, "b": b"{"}
    assert types == {"prompt": "", "seed": "application/json", "b": "application/json"}


@pytest.mark.parametrize("content_type", [MULTIPART, "multipart/form-data", "multipart/form-data; boundary=\u00e9", ""])
@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"--x", b"--x\r\n\r\n", b"--x--"])
def test_a_broken_body_is_no_error_here(content_type: str, body: bytes) -> None:
    values, _ = values_of(body, content_type)
    assert values in ({}, {"body": body})


def test_a_form_of_forms_is_no_error_here() -> None:
    levels = [f"--{at}\r\nContent-Type: multipart/mixed; boundary={at + 1}\r\n\r\n" for at in range(1100)]
    assert values_of("".join(levels).encode(), "multipart/form-data; boundary=0") == ({}, {})


@pytest.mark.parametrize("dialect", [Own(), OpenAIImages({"auto": None})])
def test_a_stream_whose_worker_ended_ends_in_the_form_of_its_dialect(dialect: Dialect) -> None:
    written = dialect.ending(NOTHING, Failure("worker_lost", "m: the worker ended", 503))
    piece = lost_piece("m: the worker ended", written.content_type)
    assert (piece.stage, piece.body, piece.content_type) == (LAST, written.body, written.content_type)


@pytest.mark.parametrize(
    ("path", "is_openais"),
    [
        ("v1/models", True),
        ("v1/images/generations", True),
        ("predictions/m/1.0/v1/images/generations", True),
        ("predictions/v1", False),
        ("predictions/m/v1", False),
    ],
)
def test_errors_have_the_form_of_openais_clients_at_their_paths(path: str, is_openais: bool) -> None:
    document = json.loads(bytes(server_error(404, "ModelNotFoundException", "no", path.split("/")).body))
    assert ("error" in document) == is_openais


def test_counts_are_prometheus_text_that_adds_up() -> None:
    counts = Counts()
    odd = 'a"b\\c\nd'
    for _ in range(2):
        counts.add("m", "1.0", [Count("HybridStitchRequests", 1, ("prediction", odd, "ok"))])
    seconds = (0.004, 0.005, 3.0, 60.0)
    counts.add("m", "1.0", [Count("HybridStitchDenoiseSeconds", value, ("large",)) for value in seconds])
    families = {each.name: each for each in text_string_to_metric_families(counts.text())}
    (sample,) = families["HybridStitchRequests"].samples
    assert (sample.value, sample.labels) == (
        2,
        {"Model": "m", "Version": "1.0", "Kind": "prediction", "Recipe": odd, "Outcome": "ok"},
    )
    found = {each.name.rpartition("_")[2]: each for each in families["HybridStitchDenoiseSeconds"].samples}
    assert (found["count"].value, found["sum"].value) == (4, sum(seconds))
    buckets = [each.value for each in families["HybridStitchDenoiseSeconds"].samples if "le" in each.labels]
    assert buckets == [sum(value <= bound for value in seconds) for bound in (*BUCKETS, float("inf"))]


def test_an_archive_is_unpacked_and_a_folder_stays(tiny: Path, tmp_path: Path) -> None:
    packed = read_archive(pack(tiny, out=tmp_path))
    folder = unpacked(packed, tmp_path)
    assert folder.path.parent == tmp_path
    assert (folder.path / "pair" / "model_index.json").is_file()
    assert unpacked(folder, tmp_path) is folder
    linked = archive_of_pair(tiny, tmp_path / "linked")
    assert read_archive(linked.path) == linked
    assert (linked.path / "pair" / "model_index.json").samefile(tiny / "model_index.json")
    assert read_config(linked.path / "model-config.yaml")["batchSize"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replicas", "2"], "--replicas: expected nothing without --engine ray"),
        (["--gpus", "1"], "--gpus: expected nothing without --engine ray"),
        (["--engine", "ray", "--replicas", "0"], "--replicas: expected a whole number"),
        (["--engine", "ray", "--port", "70000"], "--port: expected a port that is free, or 0"),
        (["--engine", "ray", "--metrics-host", "0.0.0.0"], "--metrics-host: expected nothing"),
        (["--engine", "ray", "--pair", "nowhere"], "--pair: expected"),
        (["--engine", "ray", "--pair", str(EMBEDDED_PAIR)], "--store: expected nothing beside --pair"),
    ],
)
def test_wrong_options_are_named(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--store", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_ray_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; from hybridstitch.base import extras; from hybridstitch.cli.main import main; "
        "find = extras.find_spec; extras.find_spec = lambda name: None if name == 'ray' else find(name); "
        f"sys.exit(main(['serve', '--engine', 'ray', '--store', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, "error: ray is not installed: pip install 'hybridstitch[ray]'\n")


def test_the_front_needs_no_torch() -> None:
    code = "import sys, hybridstitch.serving.ray.front; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"


@pytest.mark.slow
@pytest.mark.server
def test_a_model_that_does_not_start_ends_the_start_with_the_workers_own_error(tiny: Path, tmp_path: Path) -> None:
    archive = archive_of_pair(tiny, tmp_path / "archive")
    (archive.path / "model-config.yaml").write_text("handler: {defaults: {recipe: nope}}\n")
    server = RayServer([archive], replicas=1, key_file=tmp_path / "keys.json")
    with pytest.raises(RuntimeError, match=r"InvalidInput: handler\.defaults\.recipe: expected one of: large"), server:
        pass
    assert not (tmp_path / "keys.json").exists()
    assert not server.home.exists()
    assert not psutil.pid_exists(server.pid)


@pytest.mark.slow
@pytest.mark.server
def test_more_gpus_than_there_are_end_the_start(tiny: Path, tmp_path: Path) -> None:
    server = RayServer([archive_of_pair(tiny, tmp_path / "archive")], replicas=1000, gpus=64)
    with pytest.raises(RuntimeError, match=r"gpus: expected at most \d+ GPUs for all replicas"), server:
        pass
    assert not server.home.exists()


@pytest.mark.slow
@pytest.mark.server
def test_ctrl_c_ends_a_start_at_once(tmp_path: Path) -> None:
    """While the models load, Ray would not notice it."""
    command = [sys.executable, "-m", "hybridstitch.cli.main", "serve", "--engine", "ray", "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([*command, "--pair", str(EMBEDDED_PAIR)], env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        family: list[psutil.Process] = []
        while not any(each.name() == "raylet" for each in family):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert list(tmp_path.iterdir()) == []

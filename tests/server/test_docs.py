"""Every snippet of README.md and docs/ runs as it is printed, in a folder like a fresh clone, against a real server.

Addresses become those of the server, folders of weights hold tiny models, and long commands get a smaller count.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridstitch.cli import main as cli
from hybridstitch.serving.server.server import Server
from tests.support.adapters import save_lora
from tests.support.clip import save_clip
from tests.support.snippets import ROOT, RUN, SHOWN, Snippet, commands, snippets, words
from tests.support.tiny import make_pipeline

LINKS = ("models", "handler", "docs", "config.properties", "Makefile")
BOUNDS = {
    "bench": ["--count", "1", "--seeds", "0", "--steps", "12"],
    "compare": ["--count", "1", "--seeds", "0", "--warmup", "1"],
    "tune": ["--count", "2", "--quick", "--steps", "12", "--guidance-scales", "4.5"],
}
"""What keeps a long command short; the last value of an option counts."""
EXIT_1_IS_AN_ANSWER = ("compare", "tune", "doctor")
"""Commands whose exit code 1 is an answer."""
NOT_RUN = {
    r"git clone": "the test runs in the clone",
    r"source \.venv/bin/activate": "the test runs in the environment",
    r"(\S*pip (install|download|wheel)|hf download|python -m venv)": "it changes the environment, or downloads",
    r"hybridstitch compare\s+--a \S+/predictions/eager": "tests/server/test_compiled.py serves an archive of each",
    r"hybridstitch bench --scale": "it takes minutes at full width; tests/test_scale.py runs it on narrow models",
    r"PIP_CONF=\S+ bash deploy/image/": "it builds an image, and runs in jobs that have buildah",
    r"docker ": "tests/test_deploy.py checks the Dockerfile",
    r"kubectl ": "tests/test_deploy.py checks the manifests",
    r"(\.venv/bin/)?(python|torchrun .*) -m (-- )?training": "it takes hours; tests/test_training.py runs the stages",
    r"(mkdir|cp|torch-model-archiver|torchserve) ": "tests/server/test_by_hand.py runs these commands",
    r"echo .*\| sudo tee": "it changes the machine",
    r"hybridstitch serve": "the server of this test has registered what the page packed before",
}
TABLES = "docs/benchmarks.md"
"""Its commands take hours: they are parsed, with every contender, and not run."""
PROMPTS = "red apple on blue\nbanana on white\n"


class Reader:
    """Works through a page from the top, as its reader would."""

    def __init__(self, folder: Path, server: Server):
        self.folder = folder
        self.server = server
        self.names: dict[str, dict[str, Any]] = {}
        self.variables: dict[str, str] = {}

    def fill_in(self, text: str) -> str:
        """The text with the addresses of this test's server."""
        ports = self.server.ports
        for shown, name in ((8080, "inference"), (8081, "management"), (7070, "grpc_inference")):
            text = text.replace(f"127.0.0.1:{shown}", f"127.0.0.1:{ports[name]}")
        return text

    def read(self, snippet: Snippet) -> None:
        """Run the snippet, or keep the file that it is."""
        text = self.fill_in(snippet.text)
        if snippet.file_name:
            (self.folder / snippet.file_name).write_text(text)
        if snippet.language == "yaml":
            assert isinstance(yaml.safe_load(text), dict)
        elif snippet.language == "python":
            self.run_python(snippet, text)
        elif snippet.language == "bash":
            for command in commands(text):
                self.run_command(snippet, command)

    def run_python(self, snippet: Snippet, text: str) -> None:
        if snippet.file_name and snippet.file_name.startswith("test_"):
            run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", snippet.file_name]
            self.run_process(run)
        elif snippet.file_name:
            importlib.import_module(snippet.file_name.removesuffix(".py"))
        else:
            names = self.names.setdefault(snippet.page, {"__name__": "__snippet__"})
            exec(compile("\n" * (snippet.line - 1) + text, snippet.page, "exec", dont_inherit=True), names)

    def run_command(self, snippet: Snippet, command: str) -> None:
        if any(re.match(pattern, command) for pattern in NOT_RUN):
            return
        if command.startswith("hybridstitch "):
            self.run_hybridstitch(snippet, words(command, self.variables)[1:])
        elif command.startswith("make "):
            targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert words(command, {})[1] in targets
        elif assigned := re.match(r"(\w+)=", command):
            shown = self.run_process(["bash", "-euc", f'{command}\nprintf %s "${assigned[1]}"'])
            self.variables[assigned[1]] = shown
        else:
            self.run_process(["bash", "-euo", "pipefail", "-c", command])

    def run_hybridstitch(self, snippet: Snippet, arguments: list[str]) -> None:
        if snippet.page == TABLES:
            options = cli._parser().parse_args(arguments)
            assert callable(options.run)
            return
        kind = arguments[0]
        bounds = [] if "shadow" in arguments else BOUNDS.get(kind, [])
        code = cli.main([*arguments, *bounds])
        assert code in ((0, 1) if kind in EXIT_1_IS_AN_ANSWER else (0,)), f"{snippet}: {arguments} ended with {code}"
        if kind == "pack":
            self.register_new()

    def register_new(self) -> None:
        """Register the archives that a page packed, as `serve` does."""
        for path in sorted((self.folder / "model_store").glob("*.mar")):
            served = self.server.store / path.name
            if not served.exists():
                shutil.copy(path, served)
                if re.fullmatch(r"hybridstitch|plain", path.stem):
                    self.server.register(path.stem)

    def run_process(self, command: list[str]) -> str:
        environment = {**os.environ, **self.variables}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """In a folder with what a clone has, the prompts and models that a reader has, and a server of its own."""
    folder = tmp_path_factory.mktemp("clone")
    for name in LINKS:
        (folder / name).symlink_to(ROOT / name)
    for name in ("prompts.txt", "calibration.txt", "others.txt"):
        (folder / name).write_text(PROMPTS)
    (folder / "others.txt").write_text("dog face on green\n")  # what evaluates is not what a search has seen
    (folder / "requests.jsonl").write_text('{"prompt": "red apple on blue", "seed": 0}\n')
    for layout in ("large", "medium"):
        pipeline = make_pipeline(f"sd35-{layout}")
        pipeline.save_pretrained(folder / f"SD35_{layout.upper()}_FOLDER", safe_serialization=True)
        save_lora(folder / f"style-{layout}.safetensors", pipeline.transformer)
    save_clip(folder / "CLIP_FOLDER")
    (folder / "faster.yaml").write_text((ROOT / "handler" / "model-config.yaml").read_text())
    store = tmp_path_factory.mktemp("docs-store")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch, Server(store) as server:
        patch.syspath_prepend(folder)
        shutil.copy(server.key_file, folder / "keys.json")
        yield Reader(folder, server)


ALL = snippets()


@pytest.mark.parametrize("snippet", ALL, ids=str)
def test_every_snippet_has_a_label(snippet: Snippet) -> None:
    assert snippet.language in (*RUN, *SHOWN), f"expected a label: {RUN}, or {SHOWN} for what nobody runs"


@pytest.mark.server
@pytest.mark.parametrize("snippet", [each for each in ALL if each.language in RUN], ids=str)
def test_every_snippet_runs(reader: Reader, snippet: Snippet) -> None:
    reader.read(snippet)

"""Rules of all commands, over a table that the parser itself gives: quick, checked before the work, and silent."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.base.extra_modules import add_modules
from hybridstitch.cli.main import _parser, main
from hybridstitch.cli.parser import EXAMPLES
from hybridstitch.recipe.names import AXES, NAMES
from hybridstitch.recipe.recipe import recipes

HEAVY = ("torch", "diffusers", "transformers", "numpy", "matplotlib")
CHECKED = """
import json, sys
from hybridstitch.cli.main import main
found = []
for arguments in json.load(sys.stdin):
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    found.append([code, [name for name in sys.argv[1:] if name in sys.modules]])
    print("----", file=sys.stderr, flush=True)
print("\\n" + json.dumps(found))
"""
STARTED = [sys.executable, "-m", "hybridstitch.cli.main"]


def commands(parser: argparse.ArgumentParser | None = None, path: tuple[str, ...] = ()) -> Iterator[Any]:
    """Every command with its parser."""
    parser = parser or _parser()
    if path:
        yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from commands(command, (*path, name))


def run_all(lines: list[list[str]], folder: Path) -> list[tuple[int, list[str], str, list[str]]]:
    """Run all commands in one process: exit code, the line, what it wrote to stderr, and heavy modules by then."""
    done = subprocess.run(
        [sys.executable, "-c", CHECKED, *HEAVY], input=json.dumps(lines), cwd=folder,
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    errors = done.stderr.split("----\n")
    return [(code, line, said, heavy) for (code, heavy), line, said in zip(found, lines, errors, strict=False)]


def required(command: argparse.ArgumentParser) -> list[str]:
    """Arguments that the command cannot do without."""
    given: list[str] = []
    for action in command._actions:
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            given.append("x")
        elif action.required and action.option_strings:
            given += [action.option_strings[0], "x"]
    return given


def test_help_and_wrong_options_load_nothing(tmp_path: Path) -> None:
    lines = [["--help"], ["--version"], ["--nothing"], [], ["generate", "a", "--speed=--"]]
    for path, _ in commands():
        lines += [[*path, "--help"], [*path, "--nothing"]]
    for code, line, said, heavy in run_all(lines, tmp_path):
        assert heavy == [], line
        assert code == (0 if line and line[-1] in ("--help", "--version") else 2), line
        assert len(said.splitlines()) == (0 if code == 0 else 1), said
        assert code == 0 or said.startswith("error: "), said


def test_help_answers_at_once(tmp_path: Path) -> None:
    began = time.perf_counter()
    subprocess.run([*STARTED, "bench", "--help"], capture_output=True, timeout=60, check=True)
    assert time.perf_counter() - began < 5  # 0.15 s of CPU; a machine may be busy


@pytest.mark.parametrize("name", [" ".join(path) for path, _ in commands()])
def test_every_help_has_an_example_that_can_be_parsed(name: str) -> None:
    import shlex

    command = {" ".join(path): parser for path, parser in commands()}[name]
    assert f"hybridstitch {EXAMPLES[name]}" in command.format_help()
    by_type = _parser().parse_args(shlex.split(EXAMPLES[name]))
    assert callable(by_type.run)


PATHS = (
    *("pair", "large", "small", "out", "report", "mask_overlay", "key_file", "recipe_file", "define", "config"),
    *("prompts", "held_out", "extra_module", "recipes", "store", "requests", "key_file_a", "key_file_b", "a", "b"),
)


def test_a_bad_path_is_refused_by_name_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("a prompt\n")
    lines, names = [], []
    for path, command in commands():
        for action in command._actions:
            is_text = path[0] == "bench" and action.dest == "recipes"
            if action.dest in PATHS and action.option_strings and not is_text:
                endings = {"explain": ".html", "tune": ".json", "generate": ".png"}
                is_output = action.dest in ("out", "mask_overlay")
                bad = "./file.txt/x" + (endings.get(path[0], "") if is_output else "")
                sides = ["--a", "x", "--b", "x", "--out", "new"] if path[0] == "compare" else []
                lines.append([*path, *required(command), *sides, action.option_strings[0], bad])
                names.append(action.option_strings[0])
    assert len(lines) > 50
    for (code, line, said, heavy), name in zip(run_all(lines, tmp_path), names, strict=True):
        assert code == 2, (line, said)
        assert f"error: {name}: expected" in said, (line, said)
        assert not {"torch", "diffusers", "transformers"} & set(heavy), line
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt"}


def test_models_that_cannot_be_packed_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    lines = {
        "--pair: expected the folder of a packed pair, or large and small, got nothing": [],
        "--small: expected a folder or hub id": ["--large", "one"],
        "--pair: expected the folder of a packed pair, with transformer_small": ["--pair", "one"],
        "--large: expected a folder (no such folder) or a hub id": ["--large", "two", "--small", "one"],
        "--without: expected one of: text_encoder_3": ["--pair", "one", "--without", "vae"],
    }
    given = [["pack", *arguments] for arguments in lines.values()]
    for (code, line, said, heavy), words in zip(run_all(given, tmp_path), lines, strict=True):
        assert (code, f"error: {words}" in said, heavy) == (2, True, []), (line, said)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", "\u200b", "--seed", "-1", "--width", "7", "--recipe", "hybridstich"],
         {"prompt": "visible", "--seed": "", "--width": "a multiple of", "--recipe": "did you mean hybridstitch?"}),
        (["generate", "a", "--recipe", '{"plan":', "--seed", "x", "--region", "1,2"],
         {"--recipe": "at character 9", "--seed": "a whole number", "--region": "X0,Y0,X1,Y1"}),
        (["generate", "a", "--recipe", '{"plan": "all", "masc": 1}', "--speed", "2"],
         {"--recipe.masc": "plan, mask, fill", "--speed": "no --recipe"}),
        (["generate", "a", "--url", "http://127.0.0.1:9", "--device", "cpu", "--dtype", "float16"],
         {"--device": "--url", "--dtype": "--url"}),
        (["generate", "a", "--url", "127.0.0.1:8080"], {"--url": "http://"}),
        (["generate", "a", "--model", "m", "--large", "a/b"], {"--model": "--url", "--small": "both"}),
        (["generate", "a", "--out", "a.png", "--mask-overlay", "a.png"], {"--mask-overlay": "another file"}),
        (["generate", "a", "--out", "a.gif", "--dtype", "float17"], {"--out": ".png", "--dtype": "bfloat16"}),
        (["explain", "a", "--target", "region", "--steps-explained", "0"],
         {"--region": "X0", "--steps-explained": "1..100"}),
        (["explain", "red " * 65, "--gradient-steps", "0"], {"prompt": "1 to 64 words", "--gradient-steps": "1..256"}),
        (["explain", "!?"], {"prompt": "1 to 64 words"}),
        (["bench", "--recipes", "smal,large@0,large/rk4", "--seeds", "1,1", "--against", "x"],
         {"--recipes": "did you mean small?", "--seeds": "different", "--against": "one of"}),
        (["tune", "--floor", "-1", "--guidance-scales", "21", "--count", "x"],
         {"--floor": "at least 0", "--guidance-scales": "0..20", "--count": "a whole number"}),
        (["recipes", "--pair", "nowhere"], {"--pair": "no such folder"}),
        (["compare"], {"--a": "in use", "--b": "candidate", "--out": "a folder"}),
        (["doctor", "--heal"], {"--heal": "--url, beside it, got nothing"}),
        (["recipes", "--pair", "x" * 300], {"--pair": "file name too long"}),
        (["bench", "--out", "x" * 300, "--prompts", "\ud800"], {"--out": "file name too long", "--prompts": ""}),
        (["generate", "a", "--recipe", '{"plan": ' + "9" * 5000 + "}"], {"--recipe": "digits"}),
        (["serve", "--store", ".", "--port", "0", "--host", "\ud800"], {"--host": "an IPv4 address"}),
    ],
)  # fmt: skip
def test_everything_that_is_wrong_is_named_at_once(
    arguments: list[str],
    named: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    for name, words in named.items():
        assert any(line.startswith(f"error: {name}: expected") and words in line for line in lines), (name, lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["bench", "tune"])
@pytest.mark.parametrize(
    ("option", "content", "named"),
    [
        ("--config", "handler: {strategies: [a]}", "handler.strategies"),
        ("--config", "handler: {strategies: {masks: [a]}}", "handler.strategies.masks"),
        ("--config", "handlr: {}", "handlr"),
        ("--config", "a: [", "--config"),
        ("--define", "[[1, {}]]", "--define"),
        ("--define", '["ab"]', "--define"),
        ("--define", "7", "--define"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(
    command: str, option: str, content: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "given").write_text(content)
    assert main([command, option, str(tmp_path / "given"), "--out", str(tmp_path / "out.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {named}: expected"), line


@pytest.mark.slow
def test_folders_of_outputs_are_made_and_nothing_foreign_is_said(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "a.png"
    draw = [
        "generate",
        "a",
        "--pair",
        str(tiny),
        "--num-inference-steps",
        "2",
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
    ]
    done = subprocess.run([*STARTED, *draw, "--out", str(out)], capture_output=True, text=True, timeout=300, check=True)
    assert out.is_file()
    assert done.stderr == ""
    assert done.stdout.startswith("recipe ")


def test_the_names_of_recipes_are_those_of_the_recipes() -> None:
    from hybridstitch.recipe.registry import BASES

    assert list(NAMES) == list(recipes())
    assert list(AXES) == list(BASES)


def test_an_extra_module_does_not_bring_its_folder(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("raise AssertionError('shadowed')\n")
    (tmp_path / "of_mine.py").write_text("import statistics\nNUMBER = statistics.mean([1, 3])\n")
    before = list(sys.path)
    add_modules([tmp_path / "of_mine.py"])
    sys.modules.pop("statistics", None)
    import of_mine  # type: ignore[import-not-found]

    assert of_mine.NUMBER == 2
    assert sys.path == before
    with pytest.raises(ValueError, match="installed module"):
        add_modules([tmp_path / "statistics.py"])


def test_an_interrupt_that_breaks_a_librarys_cleanup_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Lock:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("cannot release un-acquired lock")

    def run(_options: argparse.Namespace) -> None:
        with Lock():
            raise KeyboardInterrupt

    monkeypatch.setattr("hybridstitch.cli.bench._bench", run)
    assert main(["bench", "--count", "1", "--out", "x"]) == 130
    assert "interrupted: the pictures so far are kept in x" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bench", "tune"])
def test_an_interrupted_command_goes_on(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    command = [*STARTED, name, "--pair", str(tiny), "--prompts", "prompts.txt", "--steps", "6"]
    if name == "bench":
        command += ["--recipes", "small,large", "--seeds", "0,1", "--out", "out"]
        kept = tmp_path / "out" / "results-0.jsonl"
    else:
        command += ["--quick", "--guidance-scales", "4.5", "--out", "found.json"]
        kept = tmp_path / "found.trials.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while not (kept.exists() and kept.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=120)[1]
    finally:
        running.kill()
    assert running.returncode == 130, said
    assert "the same command continues from there" in said.splitlines()[-1]
    assert "Traceback" not in said
    lines = kept.read_text()
    monkeypatch.chdir(tmp_path)
    assert main(command[len(STARTED) :]) == 0
    again = capsys.readouterr().err
    assert kept.read_text().startswith(lines)
    assert re.search(r"\d+ pictures?(, [1-9]\d* of them generated before)", again)
    assert re.search(r"s a picture: about \d+ s", again)


OF_A_BENCH = {"settings": {"seeds": [0]}, "contenders": {}}
OF_A_COMPARISON = {"a": "x", "b": "y", "prompts": ["one"]}
OF_A_SHADOW = {"shadow": {"a": "x", "b": "y"}, "share": 1}


@pytest.mark.parametrize("content", [OF_A_BENCH, OF_A_COMPARISON, OF_A_SHADOW, [], {"settings": 1}, None])
def test_a_folder_of_another_command_is_refused_and_left_as_it_is(
    content: Any, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"sett' if content is None else json.dumps(content))
    (tmp_path / "prompts.txt").write_text("one\n")
    (tmp_path / "requests.jsonl").write_text('{"prompt": "one"}\n')
    before, prompts = settings.read_text(), ["--prompts", str(tmp_path / "prompts.txt")]
    sides = [f"--{side}={tiny}#num_inference_steps=1" for side in "ab"]
    commands: list[tuple[Any, str, list[str]]] = [
        (OF_A_BENCH, "--out", ["bench", "--pair", str(tiny), *prompts]),
        (OF_A_COMPARISON, "--out", ["compare", *sides, *prompts]),
        (OF_A_COMPARISON, "--folder", ["compare", "rate", str(tmp_path)]),
        (OF_A_SHADOW, "--out", ["compare", "shadow", *sides, "--requests", str(tmp_path / "requests.jsonl")]),
    ]
    for own, option, command in commands:
        if own != content:
            assert main([*command, *(["--out", str(tmp_path)] if option == "--out" else [])]) == 2
            (said,) = capsys.readouterr().err.splitlines()  # nothing was loaded
            assert "its settings.json" in said
            assert said.startswith(f"error: {option.replace('--folder', 'folder')}: expected")
            assert settings.read_text() == before

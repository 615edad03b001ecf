"""The order of requests, loads, and that an interrupted run ends as an unbroken one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.cli.main import main
from hybridstitch.compare.comparison import Comparison
from hybridstitch.compare.endpoints.spec import NO_FIELDS, Answer
from hybridstitch.compare.run.folder import Folder
from hybridstitch.compare.run.order import ordered_blocks, ordered_cells
from hybridstitch.compare.run.run import Load, Run
from hybridstitch.errors import InvalidInput


def test_sides_take_turns_and_both_see_every_cell():
    plan = ordered_blocks(40, [0, 1], order_seed=3)
    for side in "ab":
        assert Counter(cell for block in plan if block.side == side for cell in block.cells) == Counter(
            ordered_cells(40, [0, 1], 3)
        )
    fours = ["".join(block.side for block in plan[start : start + 4]) for start in range(0, len(plan), 4)]
    assert set(fours) == {"abba", "baab"}
    assert 10 < fours.count("abba") < 30
    assert all(
        len({cell[0] for block in plan[start : start + 4] for cell in block.cells}) == 1 for start in range(0, 160, 4)
    )
    assert ordered_blocks(40, [0, 1], order_seed=3) == plan != ordered_blocks(40, [0, 1], order_seed=4)


def test_what_is_done_leaves_the_order_of_the_rest():
    plan = ordered_blocks(9, [0], size=3)
    done = {plan[0].cells[1], *plan[2].cells}
    rest = ordered_blocks(9, [0], size=3, done=done)
    assert [block.side for block in rest] == [block.side for block in (*plan[:2], *plan[4:])]
    assert rest[0].cells == (plan[0].cells[0], plan[0].cells[2])


class Watched:
    """Answers at once and notes how many requests were there together."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.begun: list[float] = []

    def ask(self, prompt: str, seed: int, fields: Any = NO_FIELDS) -> Answer:
        self.begun.append(time.perf_counter())
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)
        self.now -= 1
        return Answer(0.05, error="no picture was drawn")

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("load", [Load(), Load(concurrency=3), Load(rate=50.0, block=6)])
def test_loads_are_kept(load: Load, tmp_path: Path):
    folder, endpoints = Folder(tmp_path), {"a": Watched(), "b": Watched()}
    with folder.opened({}):
        Run(endpoints, ["one", "two", "three"], [0, 1], folder, load).go({})
    assert len(folder.rows()) == 12
    expected = {1: (1, 1), 3: (2, 3), 6: (2, 6)}[load.block_size]
    assert all(expected[0] <= each.most <= expected[1] for each in endpoints.values())
    if load.rate:
        steps = [after - before for before, after in zip(endpoints["a"].begun, endpoints["a"].begun[1:], strict=False)]
        assert 0.015 < sorted(steps)[len(steps) // 2] < 0.04


@pytest.mark.parametrize("load", [{"concurrency": 0}, {"rate": 0.0}, {"rate": 1.0, "concurrency": 2}, {"pause": -1.0}])
def test_loads_that_make_no_sense(load: dict[str, Any]):
    with pytest.raises(InvalidInput):
        Load(**load)


def command(tiny: Path, prompts: Path, out: Path) -> list[str]:
    a, b = (f"{tiny}#recipe={recipe}&num_inference_steps=4" for recipe in ("large", "hybridstitch"))
    where = ["--prompts", str(prompts), "--seeds", "0,1", "--out", str(out), "--pause", "0.05"]
    return ["compare", "--a", a, "--b", b, *where]


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    """The report but for what depends on the clock: seconds, and what is said of speed."""
    timed = ("times", "latency", "rerun", "passed", "summary", "sentence")
    kept = {name: value for name, value in report.items() if name not in timed}
    kept["sentences"] = {name: each for name, each in kept["sentences"].items() if name != "verdict"}
    clocked = ("speedup", "faster", "passed", "summary", "sentence")
    kept["verdict"] = {name: each for name, each in kept["verdict"].items() if name not in clocked}
    for pair in kept["pairs"]:
        for side in "ab":
            pair[side] = {name: each for name, each in pair[side].items() if name in ("picture", "sha256", "error")}
    return kept


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_report(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt {number}\n" for number in range(6)))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "hybridstitch.cli.main", *command(tiny, prompts, killed)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answers, deadline = killed / "answers.jsonl", time.monotonic() + 120
    while not answers.exists() or answers.read_text().count('{"side"') < 7:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = Folder(killed).rows()
    assert 7 <= len(before) < 24
    assert not (killed / "report.json").exists()
    with answers.open("a") as lines:
        lines.write('\n{"side": "a", "prom')  # a line that the end cut off
    assert main(command(tiny, prompts, killed)) == main(command(tiny, prompts, whole)) == 1
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (killed, whole))
    assert without_times(first) == without_times(second)
    assert len(first["times"]["sessions"]) == 2
    kept = Folder(killed).rows()
    complete = {cell for side, cell in before if ("b" if side == "a" else "a", cell) in before}
    assert complete
    assert all(kept[side, cell] == before[side, cell] for side, cell in before if cell in complete)
    capsys.readouterr()
    size = answers.stat().st_size
    assert main(command(tiny, prompts, killed)) == 1  # nothing is left to ask
    assert answers.stat().st_size == size
    assert main([*command(tiny, prompts, killed), "--seeds", "0,2"]) == 2
    assert "seeds" in capsys.readouterr().err


def test_answers_are_read_from_the_disk_once(tiny: Path, tmp_path: Path):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("".join(f"prompt {number}\n" for number in range(4)))
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).endswith("answers.jsonl") and arguments[1] == "r":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)  # it stays, so it is told when to look away
    main([*command(tiny, prompts, out), "--until-decided", "--warmup", "1"])
    watching = False
    assert len(Folder(out).rows()) == 16
    assert len(opened) <= 1


def test_two_runs_do_not_share_a_folder(tmp_path: Path):
    with Folder(tmp_path).opened({}), pytest.raises(InvalidInput, match="no other run"), Folder(tmp_path).opened({}):
        pass


def test_an_endpoint_that_never_answers_is_named_before_the_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "p.txt").write_text("one\n")
    ask = ["compare", "--a", str(tiny), "--b", "http://127.0.0.1:9/predictions/x", "--prompts", str(tmp_path / "p.txt")]
    assert main([*ask, "--out", str(tmp_path / "out")]) == 2
    assert "error: --b: expected an endpoint that generates" in capsys.readouterr().err


def test_every_problem_of_the_command_is_named(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    wrong = [
        "--a",
        "nowhere",
        "--b",
        "http://x",
        "--prompts",
        "none.txt",
        "--seeds",
        "-1",
        "--rate",
        "0",
        "--limit",
        "x",
    ]
    assert main(["compare", *wrong, "--out", str(tmp_path), "--alpha", "0.9"]) == 2
    said = capsys.readouterr().err
    assert all(
        f"error: --{name}: expected" in said for name in ("a", "b", "prompts", "seeds", "rate", "limit", "alpha")
    )
    assert main(["compare"]) == 2
    assert "error: --a: expected" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["compare", "--a", str(tiny), "--b", str(tiny), "--out", str(tmp_path / "file")]) == 2
    assert "error: --out: expected a folder" in capsys.readouterr().err


def test_settings_survive_the_disk(tiny: Path):
    comparison = Comparison(str(tiny), str(tiny), ["one"], "p.txt", [0], Load(rate=2.0), limits={"ssim": 0.5})
    written = json.dumps(comparison.to_dict())
    assert json.dumps(Comparison.from_dict(json.loads(written)).to_dict()) == written
    with pytest.raises(InvalidInput, match="prompts"):
        Comparison(str(tiny), str(tiny), ["one", "\u200b \u200b"], "p.txt", [0])
    with pytest.raises(InvalidInput, match="this version"):
        Comparison.from_dict({"a": "x"})

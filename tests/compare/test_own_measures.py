"""An operator's own measure that fails: known before the run where possible, later a failure of its pair alone."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridstitch.cli.main import main
from tests.support.html_page import check_page
from tests.support.snippets import snippets

MODULE = """
import numpy as np

SEEN = []


def nan(picture, prompt):
    return float("nan") if prompt == "prompt 3" else 1.0


def infinite(picture, prompt):
    return np.float32("inf") if prompt == "prompt 3" else 1


def raising(picture, prompt):
    if prompt == "prompt 3":
        raise KeyError("no\\nscore")
    picture[:] = 0  # its own copy
    return np.float64(1)


def nothing(picture, prompt):
    return None if prompt == "prompt 3" else True


def text(picture, prompt):
    return "0.5" if prompt == "prompt 3" else np.array(0.5)


def once(picture, reference):
    SEEN.append(1)
    return float("inf") if len(SEEN) == 4 else 0.1


def bytes_wanted(picture, prompt):
    return picture.decode()


def numbers(picture, reference):
    return picture.shape
"""


@pytest.fixture
def module(tmp_path: Path) -> list[str]:
    """The options that let measures of the module be named; `own:NAME` stands for its unique name."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return ["--extra-module", str(tmp_path / f"{name}.py")]


def compare(tiny: Path, tmp_path: Path, module: list[str], *more: str) -> list[str]:
    (tmp_path / "p.txt").write_text("".join(f"prompt {number}\n" for number in range(6)))
    large, small = (f"{tiny}#recipe={recipe}&num_inference_steps=1" for recipe in ("large", "small"))
    sides = ["compare", "--a", large, "--b", small, "--prompts", str(tmp_path / "p.txt"), "--seeds", "0"]
    given = [word.replace("own:", f"{Path(module[1]).stem}:") for word in more]
    return [*sides, "--out", str(tmp_path / "out"), *module, *given, "--json"]


def measured(report: dict[str, Any], name: str) -> dict[str, Any]:
    verdict = report["verdict"]
    return next(each for each in (*verdict["quality"], *verdict["fidelity"]) if each["name"] == name)


@pytest.mark.parametrize(
    ("name", "margin"),
    [(name, ["--margin", "0.5"]) for name in ("nan", "infinite", "raising", "nothing", "text")] + [("nan", [])],
)
def test_a_pair_without_a_quality_counts_against_b(
    tiny: Path, tmp_path: Path, module: list[str], capsys: pytest.CaptureFixture, name: str, margin: list[str]
):
    main(compare(tiny, tmp_path, module, "--quality", f"own:{name}", *margin))
    report = json.loads(capsys.readouterr().out)
    found = measured(report, "quality")
    assert (found["pairs"], found["unmeasured"]) == (5, 1)
    assert any("The measure of quality failed on 1 of 6 pairs" in each for each in report["warnings"])
    wrong = [pair for pair in report["pairs"] if pair["unmeasured"]]
    assert [pair["text"] for pair in wrong] == ["prompt 3"]
    with (tmp_path / "out" / "pairs.csv").open(newline="") as lines:
        assert ["quality failed" in row["note"] for row in csv.DictReader(lines)].count(True) == 1
    assert "failed on 1 of 6 pairs" in check_page(tmp_path / "out").words
    if margin:
        assert found["non_inferior"] is False
        assert report["summary"].endswith(", inferior")
        assert "the measure of quality failed on 1 pair, which counts against B" in report["sentence"]
    else:
        assert report["verdict"]["quality"][0]["non_inferior"] is None


def test_a_distance_that_fails_once_does_not_end_the_report(
    tiny: Path, tmp_path: Path, module: list[str], capsys: pytest.CaptureFixture
):
    command = compare(tiny, tmp_path, module, "--distance", "own:once", "--limit", "distance=5", "--until-decided")
    assert main(command) == 1
    report = json.loads(capsys.readouterr().out)
    found = measured(report, "distance")
    assert (found["unmeasured"], found["non_inferior"]) == (1, False)
    assert report["passed"] is False
    assert report["summary"].endswith(", inferior")


def test_the_folder_of_an_extra_module_is_not_searched(
    tiny: Path, tmp_path: Path, module: list[str], capsys: pytest.CaptureFixture
):
    (tmp_path / f"beside_{tmp_path.name}.py").write_text("def one(picture, prompt):\n    return 1.0\n")
    assert main(compare(tiny, tmp_path, module, "--quality", f"beside_{tmp_path.name}:one")) == 2
    assert "--quality: expected module:function that can be imported" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--quality", "own:bytes_wanted"], ["--distance", "own:numbers"]])
def test_a_measure_that_expects_another_picture_is_refused_before_the_run(
    tiny: Path, tmp_path: Path, module: list[str], capsys: pytest.CaptureFixture, option: list[str]
):
    assert main(compare(tiny, tmp_path, module, *option)) == 2
    said = capsys.readouterr().err
    assert f"error: {option[0]}: expected a function that measures the warm-up's pictures" in said
    assert said.count("error:") == 1
    assert not (tmp_path / "out" / "answers.jsonl").exists()


SCORING = """
import numpy as np

print("loading")


class Model:
    def score(self, prompt, image):
        print("scoring")
        return len(prompt) + float(np.asarray(image)[0, 0, 2])


def load(name, download_root):
    assert (name, download_root) == ("IMAGEREWARD_FOLDER/ImageReward.pt", "IMAGEREWARD_FOLDER")
    return Model()
"""
"""In place of the package, which cannot be installed beside this project: it has the same calls, and prints as much."""


def test_the_documented_scorer_of_another_environment_is_asked_picture_by_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = (each.text for each in snippets() if each.file_name == "image_reward.py")
    (tmp_path / "ImageReward.py").write_text(SCORING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names: dict[str, Any] = {}
    exec(text.replace("IMAGEREWARD_ENV/bin/python", sys.executable), names)
    picture = np.zeros((4, 6, 3))
    picture[0, 0, 2] = 1
    try:
        assert names["score"](picture, "x") == 256
        assert names["score"](picture / 5, "\u00e9\nz") == 54
    finally:
        with names["scorer"]() as process:
            process.stdin.close()
    assert process.returncode == 0

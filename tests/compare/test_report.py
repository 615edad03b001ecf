"""Verdicts on real pairs, the report's files, and the page: whole, self-contained, nothing unescaped."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.cli.main import main
from hybridstitch.compare.measures import NAMES
from tests.support.html_page import check_page
from tests.support.marks import UNMARKED, content_of, mark_of
from tests.support.picture_server import TOKEN

HOSTILE = '<script>alert("prompt")</script>'


def run(capsys: pytest.CaptureFixture, out: Path, a: str, b: str, prompts: list[str], *more: str) -> tuple[int, Any]:
    (out.parent / "prompts.txt").write_text("\n".join(prompts))
    where = ["--prompts", str(out.parent / "prompts.txt"), "--out", str(out), "--json"]
    code = main(["compare", "--a", a, "--b", b, *where, *more])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "report.json").read_text())
    return code, printed


def test_an_endpoint_with_itself_is_no_difference(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    endpoint = f"{tiny}#recipe=hybridstitch&num_inference_steps=4"
    prompts = [f"prompt {number}" for number in range(4)]
    code, report = run(capsys, tmp_path / "out", endpoint, endpoint, prompts)
    assert code == 1
    assert "no difference" in report["summary"]
    assert report["verdict"]["identical"] == len(report["pairs"]) == 8
    assert all(pair["identical"] and pair["fidelity"]["psnr_db"] is None for pair in report["pairs"])
    with (tmp_path / "out" / "pairs.csv").open(newline="") as lines:
        assert {row["psnr_db"] for row in csv.DictReader(lines)} == {"inf"}
    page = check_page(tmp_path / "out")
    assert "identical" in page.words
    panels = [value for name, value in page.attributes if name == "src"][:4]  # A, B, their difference, the mask
    assert [mark_of(content_of(each)) == UNMARKED for each in panels] == [False, False, True, False]


@pytest.mark.slow
def test_the_small_model_is_faster_and_not_close_enough(emoji: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    large, small = (f"{emoji}#recipe={recipe}&num_inference_steps=4" for recipe in ("large", "small"))
    prompts = (emoji / "heldout_prompts.txt").read_text().splitlines()[:6]
    more = ["--seeds", "0", "--pause", "0.1", "--distance", "efficientnet"]
    code, report = run(capsys, tmp_path / "out", large, small, prompts, *more)
    assert (code, report["summary"]) == (1, "faster, not close enough to A")
    found = {each["name"]: each for each in report["verdict"]["fidelity"]}
    assert found["distance"]["value"] > 0.2
    assert found["psnr_db"]["value"] < 30
    assert report["endpoints"]["b"]["made"]["recipe"]["name"] == "small"
    assert {"format", "passed", "verdict", "endpoints", "latency", "failures", "pairs", "settings"} <= set(report)
    page = check_page(tmp_path / "out")
    assert page.tags.count("svg") == 4
    assert all(prompt in page.words for prompt in prompts[:1])


def test_a_candidate_that_is_faster_and_near_passes(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    more, fewer = (f"{tiny}#recipe=large&num_inference_steps={steps}" for steps in (24, 4))
    prompts = [f"{colour} apple" for colour in ("red", "green", "blue", "black", "white", "yellow")]
    code, report = run(
        capsys, tmp_path / "out", more, fewer, prompts, "--seeds", "0", "--limit", "psnr_db=5", "--until-decided"
    )
    assert report["sequential"]["prompts"] == 6  # too few for a sequential decision, whatever they show
    assert (code, report["passed"], report["summary"]) == (1, False, "undecided")
    code, report = run(capsys, tmp_path / "fixed", more, fewer, prompts, "--seeds", "0", "--limit", "psnr_db=5")
    assert (code, report["summary"]) == (0, "faster, non-inferior")


def test_failures_are_rows_and_nothing_that_others_wrote_is_markup(
    drawing: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN_B", TOKEN)
    a = f"{tiny}#recipe=large&num_inference_steps=2"
    code, report = run(capsys, tmp_path / "out", a, f"{drawing}/flaky", [HOSTILE, "=1+1", "plain"])
    assert code == 1
    assert report["verdict"]["failures"] == {"a": 0, "b": 3, "inferior": True}
    assert [each["side"] for each in report["failures"]] == ["b"] * 3
    text = (tmp_path / "out" / "report.html").read_text()
    page = check_page(tmp_path / "out")
    assert HOSTILE in page.words
    assert "alert('server')" in page.words
    assert HOSTILE not in text
    with (tmp_path / "out" / "pairs.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 6
    assert set(NAMES) - {"quality"} <= set(rows[0])
    assert "'=1+1" in {row["text"] for row in rows}
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 12
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_quality_of_the_operators_own(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    module = tmp_path / "own_measures.py"
    module.write_text(
        "def brightness(picture, prompt):\n    return float(picture.mean()) + len(prompt)\n\n\n"
        "def far(picture, reference):\n    return float(abs(picture - reference).max())\n"
    )
    large, small = (f"{tiny}#recipe={recipe}&num_inference_steps=2" for recipe in ("large", "small"))
    own = ["--quality", "own_measures:brightness", "--distance", "own_measures:far", "--extra-module", str(module)]
    _, report = run(capsys, tmp_path / "out", large, small, ["one", "two"], *own, "--margin", "0.5")
    assert all(pair["fidelity"]["distance"] > 0 and pair["quality_a"] > 3 for pair in report["pairs"])
    assert report["verdict"]["quality"][0]["limit"] == -0.5
    words = check_page(tmp_path / "out").words
    quality = words.split("Quality of each picture on its own")[-1].split("Nearness of B's pictures to A's")[0]
    assert "higher is better" in quality
    assert not re.search("nearness|PSNR", quality, re.IGNORECASE)
    assert "--extra-module" in report["rerun"]
    command = ["compare", "--a", large, "--b", small, "--out", str(tmp_path / "x"), "--quality"]
    assert main([*command, "own_measures:nothing"]) == 2
    assert main([*command[:-1], "--margin", "1"]) == 2
    assert "a measure of quality" in capsys.readouterr().err

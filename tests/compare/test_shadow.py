"""A share of given requests to both sides: which ones, within which bounds, and what drifted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybridstitch.cli.main import main
from hybridstitch.compare.endpoints.open import open_endpoint
from hybridstitch.compare.endpoints.spec import parse_endpoint
from hybridstitch.compare.measured import MeasuredSample
from hybridstitch.compare.run.folder import Row
from hybridstitch.compare.shadow.drift import page as drift_page
from hybridstitch.compare.shadow.drift import summarise
from hybridstitch.compare.shadow.shadow import Shadow, read_requests
from hybridstitch.errors import InvalidInput
from tests.support.html_page import Page


def header(report: dict) -> str:
    """The class of the page's banner."""
    text = drift_page(report)
    Page(text)
    return text.split('<header class="')[1].split('"')[0]


def sides(tiny: Path) -> dict:
    specs = {"a": f"{tiny}#recipe=large", "b": f"{tiny}#recipe=small"}
    return {side: open_endpoint(parse_endpoint(text)) for side, text in specs.items()}


def request(number: int) -> dict:
    return {"prompt": f"prompt {number}", "num_inference_steps": 1}


def test_the_same_requests_are_chosen_each_time(tiny: Path, tmp_path: Path):
    first, again, other = (Shadow(sides(tiny), tmp_path, 0.2, seed) for seed in (0, 0, 1))
    chosen = [first.chooses(request(number)) for number in range(1000)]
    assert 150 < sum(chosen) < 250
    assert chosen == [again.chooses(request(number)) for number in range(1000)]
    assert chosen != [other.chooses(request(number)) for number in range(1000)]


def test_a_shadow_keeps_to_its_bounds(tiny: Path, tmp_path: Path):
    with Shadow(sides(tiny), tmp_path / "out", share=1, limit=3, window=2) as running:
        taken = [running.offer(request(number), wait=True) for number in range(5)]
        with pytest.raises(InvalidInput):
            running.offer({"seed": 3})
        with pytest.raises(InvalidInput):
            running.offer({"prompt": "one", "seed": -1})
    assert taken == [True] * 3 + [False] * 2
    assert running.counts == {"offered": 5, "chosen": 5, "sent": 3, "let_go": 0}
    assert [window["pairs"] for window in running.report["windows"]] == [2, 1]
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 6


def test_requests_that_find_no_room_are_let_go(tiny: Path, tmp_path: Path):
    with Shadow(sides(tiny), tmp_path / "out", share=1) as running:
        taken = [running.offer(request(number)) for number in range(90)]
    assert 0 < running.counts["let_go"] == taken.count(False)
    assert running.counts["sent"] == taken.count(True) >= 64


def test_the_command_goes_on_where_it_stopped(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    path, out = tmp_path / "requests.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps({**request(number), "seed": number}) + "\n" for number in range(4)))
    command = ["compare", "shadow", "--requests", str(path), "--out", str(out), "--share", "1", "--window", "2"]
    command += ["--a", f"{tiny}#recipe=large", "--b", f"{tiny}#recipe=small"]
    assert main([*command, "--limit", "2"]) == 0
    assert "too few" in capsys.readouterr().out
    before = (out / "answers.jsonl").read_text()
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (out / "answers.jsonl").read_text().startswith(before)
    assert report["counts"] == {"offered": 4, "chosen": 4, "sent": 2, "let_go": 0}
    assert [window["pairs"] for window in report["windows"]] == [2, 2]
    assert set(report["drift"]) == {"speedup", "psnr_db", "ssim"}
    assert json.loads((out / "shadow.json").read_text()) == report
    page = Page((out / "shadow.html").read_text())
    assert not any(name in ("src", "href") for name, _ in page.attributes)
    assert main([*command, "--share", "0.5"]) == 2
    path.write_text('{"prompt": "fine"}\n{"seed": 1}\nnot json\n')
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "line 2" in said
    assert "line 3" in said
    with pytest.raises(InvalidInput):
        read_requests(tmp_path / "none.jsonl")


def pair(number: int, seconds_b: float, decibels: float) -> MeasuredSample:
    a, b = (
        Row(side, number, 0, seconds, number, 0, "x.png", "", None, None)
        for side, seconds in zip("ab", (1.0, seconds_b), strict=True)
    )
    return MeasuredSample(number, "text", 0, a, b, {"psnr_db": decibels, "ssim": 0.9})


def test_the_page_is_green_only_where_something_is_known():
    rng = np.random.default_rng(0)
    near = [replace(pair(n, 0.5, 30), fidelity={"psnr_db": 30, "ssim": 0.99 + 0.01 * rng.random()}) for n in range(80)]
    steady = summarise(near, 20, {}, {})
    assert header(steady) == "good"
    assert header(summarise(near[:3], 20, {}, {})) == "open"
    moved = [*near[:40], *(pair(number, 0.8, 30) for number in range(40, 80))]
    assert header(summarise(moved, 20, {}, {})) == "open"
    ssim = drift_page(summarise(near[:3], 2, {}, {})).split(">SSIM</h2>")[1].split("</section>")[0]
    ticks = [float(text) for text in re.findall(r'class="tick"[^>]*>([0-9.]+)<', ssim)]
    assert ticks
    assert max(ticks) <= 1


def test_drift_is_told_from_noise():
    rng = np.random.default_rng(0)
    steady = [pair(number, 0.5 * rng.lognormal(0, 0.1), 30 + rng.normal()) for number in range(80)]
    report = summarise(steady, 20, {}, {})
    assert len(report["windows"]) == 4
    assert {name: each["drifted"] for name, each in report["drift"].items()} == dict.fromkeys(report["drift"], False)
    assert set(report["drift"]) == {"speedup", "psnr_db", "ssim"}
    assert report["windows"][0]["speedup"] == pytest.approx(2, rel=0.1)
    slower = [pair(number, (0.5 if number < 40 else 0.6) * rng.lognormal(0, 0.1), 30) for number in range(80)]
    moved = summarise(slower, 20, {}, {})["drift"]["speedup"]
    assert moved["drifted"]
    assert moved["low"] < 5 / 6 < moved["high"]


@pytest.mark.parametrize("wrong", [{"share": 0}, {"share": 1.1}, {"limit": 0}, {"window": 1}])
def test_bounds_that_make_no_sense(tiny: Path, tmp_path: Path, wrong: dict):
    with pytest.raises(InvalidInput):
        Shadow(sides(tiny), tmp_path, **wrong)


def test_options_of_a_companion_stand_before_its_name_or_after_it(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "requests.jsonl").write_text(json.dumps({**request(0), "seed": 1}) + "\n")
    shared = ["--a", f"{tiny}#recipe=large", "--b", f"{tiny}#recipe=small", "--order-seed", "5", "--json"]
    own = ["--requests", str(tmp_path / "requests.jsonl"), "--share", "1"]
    found = []
    for before in (shared, [], shared[:2]):
        out = ["--out", str(tmp_path / f"out-{len(found)}")]
        given = [*before, *out, "shadow", *own, *[word for word in shared if word not in before]]
        given = [*given, "--order-seed", "5"] if before == shared[:2] else given
        assert main(["compare", *given]) == 0
        report = json.loads(capsys.readouterr().out)
        found.append((report["asked"], report["counts"]))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["seed"] == 5
    assert found[0][1]["sent"] == 1
    for wrong in (["--seeds", "3"], ["--limit", "psnr_db=3"], ["--until-decided"]):
        assert main(["compare", *wrong, *shared, "--out", str(tmp_path / "x"), "shadow", *own]) == 2
        assert f"error: {wrong[0]}: expected no option of `compare` alone" in capsys.readouterr().err
        assert main(["compare", *wrong, "rate", str(tmp_path)]) == 2
        assert f"error: {wrong[0]}: " in capsys.readouterr().err

"""Two families of contenders at the same speed, on data with a known answer."""

from __future__ import annotations

import json
import math

import pytest

from hybridstitch.bench.equal_speed import BY_FLOPS, MEASURED, compare, comparison_table
from hybridstitch.bench.folder import Fidelity, Result
from hybridstitch.bench.specs import members
from hybridstitch.cli.main import main

SPREAD = (-6.0, -1.0, 0.0, 2.0, 5.0)
"""How hard each prompt is, in dB: the same for every contender, so pairing removes it."""


def measured(name: str, speed: float, psnr_db: float, cost: float | None = None, better: float = 0.0) -> list[Result]:
    """Results of a contender on five prompts with two seeds. better: dB more on the last prompt alone."""
    found = []
    for prompt, hard in enumerate(SPREAD):
        for seed in (0, 1):
            value = psnr_db + hard + better * (prompt == len(SPREAD) - 1)
            near = Fidelity(value, 0.9, 1 / value)
            found.append(Result(prompt, seed, name, cost or 1 / speed, 100 / speed, 100, 1, near, None, None))
    return found


def test_a_speed_between_two_settings_is_interpolated_and_paired():
    # In the middle of 1 and 4 on a logarithmic scale is 2: (40 + 30) / 2 = 35 against (36 + 28) / 2 = 32.
    results = (
        measured("our=1", 1, 40) + measured("our=4", 4, 30) + measured("their=1", 1, 36) + measured("their=4", 4, 28)
    )
    (found,) = compare(results, "our", "their", [2], MEASURED)
    assert (found.ours, found.theirs) == (("our=1", "our=4"), ("their=1", "their=4"))
    assert found.psnr_db is not None
    assert (found.psnr_db.value, found.psnr_db.low, found.psnr_db.high) == pytest.approx((3, 3, 3))
    assert found.perceptual is not None
    assert found.perceptual.high < 0


def test_the_interval_is_over_prompts():
    results = measured("a", 2, 30, better=5.0) + measured("b", 2, 30)
    (found,) = compare(results, "a", "b", [2], MEASURED)
    assert found.psnr_db is not None
    assert found.psnr_db.value == pytest.approx(1)
    assert found.psnr_db.low == 0
    assert 2 <= found.psnr_db.high <= 4


def test_flops_and_measured_speed_differ():
    ours = measured("a", 1.5, 30, cost=1 / 2) + measured("a fast", 3, 20, cost=1 / 4)
    theirs = measured("b", 2, 28, cost=1 / 2) + measured("b slow", 1.4, 33, cost=1 / 1.4)
    by_flops, by_time = (compare(ours + theirs, "a", "b", [2], by)[0] for by in (BY_FLOPS, MEASURED))
    assert by_flops.psnr_db is not None
    assert by_flops.psnr_db.value == pytest.approx(2)
    assert by_time.psnr_db is not None
    assert by_time.psnr_db.value == pytest.approx(30 - 10 * math.log(2 / 1.5) / math.log(2) - 28)


def test_a_setting_that_another_beats_is_left_out():
    results = measured("a", 2, 30) + measured("b1", 1.5, 35) + measured("bad b", 1.9, 10) + measured("b2", 1.8, 20)
    results += measured("b3", 3, 25)
    (found,) = compare(results, "a", "b", [2], MEASURED)
    assert found.theirs == ("b1", "b3")


def test_outside_of_a_family_there_is_no_figure():
    results = measured("a", 1.6, 30) + measured("a2", 3, 20) + measured("b", 1, 30) + measured("b2", 4, 20)
    found = compare(results, "a", "b", [1.5, 3, 3.5], MEASURED)
    assert [each.ours for each in found] == [(), ("a2",), ()]
    assert [each.psnr_db is None for each in found] == [True, False, True]
    assert comparison_table(found).count("no settings around this speed") == 2


def test_a_family_is_a_common_start_of_names():
    assert members(["speed=1.5", "speed=2", "large~2/even"], "speed=") == ["speed=1.5", "speed=2"]


@pytest.mark.slow
def test_the_command_compares_families(tiny, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    out = tmp_path / "out"
    command = ["bench", "--pair", str(tiny), "--prompts", str(tmp_path / "prompts.txt"), "--seeds", "0", "--steps", "8"]
    command += ["--recipes", "large@6,large@4/even,large@2/even,reuse,small", "--out", str(out)]
    assert main([*command, "--equal-flops", "reuse", "large@", "--at", "2,50", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["comparisons"]
    assert first["ours"] == ["reuse"]
    assert first["theirs"] == ["large@4/even"]
    assert first["psnr_db"]["low"] <= first["psnr_db"]["value"] <= first["psnr_db"]["high"]
    assert second["psnr_db"] is None
    assert "2x by FLOPs" in (out / "bench.md").read_text()
    assert main([*command, "--equal-speed", "nobody", "large@"]) == 2
    assert "nobody" in capsys.readouterr().err

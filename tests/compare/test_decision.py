"""The verdict: its words, its rules, and how often it errs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from hybridstitch.compare.verdict.fixed import decide
from hybridstitch.compare.verdict.margins import Fidelity, Margins, Quality
from hybridstitch.compare.verdict.power import power, prompts_needed
from hybridstitch.compare.verdict.samples import Sample
from hybridstitch.compare.verdict.sequential import follow
from hybridstitch.errors import InvalidInput
from tests.support.simulated import at_most, run

MARGINS = Margins({"clip": Quality(0.05)}, {"psnr": Fidelity(25)})
QUALITY = Margins({"clip": Quality(0.05)})
FAILED = {"seconds_b": math.nan, "measures": {}}
RUNS = 600


def simulated(seed: int = 0, nearness: float | None = 30.0, **truth) -> list[Sample]:
    return run(np.random.default_rng(seed), nearness=nearness, **truth)


def test_faster_and_as_good_passes():
    verdict = decide(simulated(), MARGINS)
    assert verdict.passed
    assert verdict.faster
    assert verdict.speed.ratio.low < 2 < verdict.speed.ratio.high
    assert verdict.summary() == "faster, non-inferior"
    assert verdict.sentence().startswith(f"Faster, non-inferior: B is {verdict.speed.ratio.value:.2f} times as fast")
    assert "90 % interval" in verdict.sentence()


def test_large_against_small_is_faster_and_inferior():
    worse = decide(simulated(quality=-0.3), MARGINS)
    assert (worse.faster, worse.non_inferior, worse.passed) == (True, False, False)
    assert worse.sentence().startswith("Faster, inferior: B is")
    assert "worse than allowed (clip -0.3" in worse.sentence()
    far = decide(simulated(nearness=17), MARGINS)
    assert far.sentence().startswith("Faster, not close enough to A: B is")
    assert "further from A's than allowed (psnr 1" in far.sentence()


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ({}, "non-inferior"),
        ({"quality": -0.3}, "inferior"),
        ({"quality": -0.3, "nearness": 17.0}, "inferior"),
        ({"nearness": 17.0}, "not close enough to A"),
        ({"nearness": 25.0}, "pictures undecided"),
    ],
)
def test_inferior_is_said_of_quality_alone(truth, words):
    pairs = simulated(**truth)
    assert decide(pairs, MARGINS).summary() == f"faster, {words}"
    sequential = follow(
        pairs,
        list(dict.fromkeys(pair.prompt for pair in pairs)),
        2,
        Margins({"clip": Quality(0.05, 0.1)}, {"psnr": Fidelity(25, bound=5)}),
    )
    if sequential.passed is not None:
        assert sequential.summary().split(", ")[-1] == words


def test_what_is_undecided_says_why():
    few = decide(simulated(prompts=3), MARGINS)
    assert few.sentence().startswith("Speed undecided, pictures undecided: B is ")
    assert "but that is not shown: 3 prompts are too few, 5 are needed at least" in few.sentence()
    assert "3 prompts are too few, 6 are needed at least" in few.fidelity_sentence()
    assert "5 are needed" not in decide(simulated(prompts=5), MARGINS).sentence()
    same = decide(simulated(speedup=1.0), MARGINS)
    assert "but that is not shown: the interval does not exclude 1" in same.sentence()
    strict = decide(simulated(prompts=6), replace(MARGINS, alpha=0.01))
    assert "6 prompts are too few, 7 are needed at least" in strict.sentence()


def test_quality_and_fidelity_never_share_a_sentence():
    for truth in ({}, {"quality": -0.3}, {"nearness": 17.0}, {"quality": -0.05, "nearness": 25.0}):
        verdict = decide(simulated(**truth), MARGINS)
        for sentence in (verdict.sentence(), verdict.quality_sentence(), verdict.fidelity_sentence()):
            assert not ("clip" in sentence and "psnr" in sentence)
        assert "clip" in verdict.quality_sentence()
        assert "psnr" in verdict.fidelity_sentence()


def test_an_endpoint_against_itself_is_no_difference():
    pairs = [replace(each, measures={"clip": 0.0, "psnr": 60.0}, identical=True) for each in simulated(speedup=1)]
    for margins in (MARGINS, Margins({"clip": Quality()}, {"psnr": Fidelity()})):
        verdict = decide(pairs, margins)
        assert verdict.no_difference
        assert verdict.faster is None
        assert verdict.non_inferior
        assert not verdict.passed
        assert verdict.sentence().startswith("No difference: B is ")
        assert "all 48 pairs of pictures are identical" in verdict.sentence()
    assert verdict.fidelity[0].interval.low == verdict.fidelity[0].interval.high == 60
    assert not decide([replace(pairs[0], identical=False), *pairs[1:]], MARGINS).no_difference


def test_slower_is_not_faster_and_close_is_undecided():
    assert decide(simulated(speedup=0.8), MARGINS).faster is False
    assert decide(simulated(speedup=1.0), MARGINS).faster is None
    assert decide(simulated(speedup=2.0), replace(MARGINS, min_speedup=2.5)).faster is False
    assert "where more than 1.5 times was asked" in decide(simulated(), replace(MARGINS, min_speedup=1.5)).sentence()


def test_undecided_says_how_many_prompts_would_do():
    verdict = decide(simulated(spread=0.4), MARGINS)
    assert verdict.non_inferior is None
    assert f"about {verdict.quality[0].prompts_needed} prompts would show it" in verdict.sentence()
    assert not verdict.passed


def test_lower_may_be_nearer():
    margins = Margins(QUALITY.quality, {"psnr": Fidelity(25, lower_is_nearer=True)})
    assert decide(simulated(nearness=20), margins).fidelity[0].non_inferior is True
    assert decide(simulated(nearness=30), margins).fidelity[0].non_inferior is False


def test_failures_count_and_are_told():
    pairs = simulated()
    pairs = [replace(pairs[0], **FAILED), *pairs[1:]]
    verdict = decide(pairs, MARGINS)
    assert (verdict.failures.a, verdict.failures.b, verdict.answered) == (0, 1, 47)
    assert verdict.quality[0].samples == 47
    assert not verdict.passed
    assert verdict.sentence().startswith("Faster, inferior: ")
    assert "B failed 1 and A 0 of 48 requests" in verdict.sentence()
    assert decide(pairs, replace(MARGINS, extra_failures=0.05)).passed
    assert decide([pairs[0], replace(pairs[1], seconds_a=math.nan, measures={}), *pairs[2:]], MARGINS).passed


def test_all_failed():
    for broken in (FAILED, FAILED | {"seconds_a": math.nan}):
        verdict = decide([replace(each, **broken) for each in simulated()], MARGINS)
        assert verdict.faster is None
        assert not verdict.passed
        assert "no speed to compare" in verdict.sentence()
        assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["speedup"]["value"] is None
    assert verdict.non_inferior is None


def test_one_prompt_decides_nothing():
    verdict = decide(simulated(prompts=1, seeds=4), MARGINS)
    assert (verdict.faster, verdict.non_inferior, verdict.passed) == (None, None, False)
    assert "one prompt, too few for an interval" in verdict.sentence()


def test_equal_figures_without_any_spread():
    pairs = [replace(each, seconds_a=2.0, seconds_b=1.0, measures={"clip": 0.0, "psnr": 30.0}) for each in simulated()]
    verdict = decide(pairs, MARGINS)
    assert verdict.passed
    assert (verdict.speed.ratio.low, verdict.speed.ratio.high) == (2, 2)
    assert verdict.quality[0].power == 1


def test_without_a_limit_a_measure_is_reported_and_nothing_passes():
    verdict = decide(simulated(), Margins({"clip": Quality()}, {"psnr": Fidelity()}))
    assert not math.isnan(verdict.quality[0].interval.low)
    assert verdict.quality[0].p is None
    assert (verdict.non_inferior, verdict.passed) == (None, False)
    assert "no margin of quality was declared" in verdict.sentence()


def test_a_measure_that_was_never_measured_does_not_pass():
    verdict = decide(simulated(nearness=None), MARGINS)
    assert (verdict.non_inferior, verdict.passed) == (None, False)
    assert "psnr: no value" in verdict.sentence()


def test_many_measures_are_adjusted():
    pairs = [replace(each, measures={f"m{n}": each.measures["clip"] for n in range(10)}) for each in simulated()]
    verdict = decide(pairs, Margins({f"m{n}": Quality(0.05) for n in range(10)}))
    assert verdict.quality[0].p_adjusted == pytest.approx(10 * verdict.quality[0].p)


def test_the_verdict_as_json_keeps_its_keys():
    found = json.loads(json.dumps(decide(simulated(), MARGINS).to_dict(), allow_nan=False))
    assert set(found) == {
        *("passed", "summary", "sentence", "faster", "non_inferior", "no_difference", "speedup", "quality", "fidelity"),
        *("failures", "prompts", "pairs", "answered", "identical", "level", "margins"),
    }
    assert found["margins"]["quality"]["clip"] == {"margin": 0.05, "bound": None}
    assert set(found["quality"][0]) == set(found["fidelity"][0])


def test_what_cannot_be_is_refused_with_every_field():
    good = simulated(nearness=None)[0]
    bad = [
        good,
        good,
        replace(good, seed=7, seconds_a=0.0),
        replace(good, seed=8, measures={"clip": math.inf, "other": 1.0}),
        replace(good, seed=9, seconds_b=math.nan),
    ]
    with pytest.raises(InvalidInput) as refused:
        decide(bad, QUALITY)
    assert len(refused.value.problems) == 5
    with pytest.raises(InvalidInput, match="at least one"):
        decide([], QUALITY)
    with pytest.raises(InvalidInput) as refused:
        Margins({"x": Quality(0)}, {"x": Fidelity(1, bound=-1)}, 0, 2, 0.5, 1)
    assert len(refused.value.problems) == 7


def test_false_alarms_at_the_margin_of_quality():
    rng = np.random.default_rng(10)
    verdicts = [decide(run(rng, quality=-0.05, within=0.05), QUALITY, draws=200) for _ in range(RUNS)]
    assert at_most(0.05, sum(each.passed for each in verdicts), RUNS)
    assert at_most(0.05, sum(each.non_inferior is False for each in verdicts), RUNS)


def test_false_alarms_of_speed():
    rng = np.random.default_rng(11)
    verdicts = [decide(run(rng, speedup=1.0), QUALITY, draws=200) for _ in range(RUNS)]
    assert at_most(0.05, sum(each.faster is True for each in verdicts), RUNS)
    assert at_most(0.05, sum(each.faster is False for each in verdicts), RUNS)


def test_any_of_many_measures_at_their_margins_is_claimed_no_more_often():
    rng = np.random.default_rng(12)
    margins = Margins({f"m{n}": Quality(0.05) for n in range(3)})
    alarms = 0
    for _ in range(500):
        values = rng.normal(-0.05, 0.05, size=(20, 3))
        pairs = [Sample(n, 0, 2.0, 1.0, {f"m{m}": float(each[m]) for m in range(3)}) for n, each in enumerate(values)]
        alarms += any(each.non_inferior for each in decide(pairs, margins, draws=200).quality)
    assert at_most(0.05, alarms, 500)


@pytest.mark.parametrize(("prompts", "effect"), [(16, 0.0), (24, -0.01)])
def test_power_is_what_the_report_says(prompts, effect):
    rng = np.random.default_rng(13)
    shown = sum(
        bool(decide(run(rng, prompts, 1, quality=effect, spread=0.08), QUALITY, draws=200).non_inferior)
        for _ in range(RUNS)
    )
    assert shown / RUNS == pytest.approx(power(0.05, 0.08, prompts, effect=effect), abs=0.05)


def test_the_report_states_the_power_of_its_own_spread():
    found = decide(simulated(spread=0.1), MARGINS).quality[0]
    assert found.power is not None
    assert 0.05 < found.power < 1
    assert found.prompts_needed == pytest.approx(prompts_needed(0.05, 0.1, alpha=0.025), rel=0.6)

"""The sequential mode: what it claims, when it stops, and how often it errs at any look."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from hybridstitch.compare.verdict.margins import Fidelity, Margins, Quality
from hybridstitch.compare.verdict.samples import Sample
from hybridstitch.compare.verdict.sequential import Progress, follow, log_wealth, lower_bound
from hybridstitch.errors import InvalidInput
from tests.support.simulated import at_most, run

MARGINS = Margins({"clip": Quality(0.1, bound=0.4)}, {"psnr": Fidelity(20, bound=20)})
QUALITY = Margins({"clip": Quality(0.1, bound=0.4)})


def order_of(pairs: list[Sample]) -> list[str | int]:
    return list(dict.fromkeys(pair.prompt for pair in pairs))


def simulated(seed: int = 0, nearness: float | None = 30.0, prompts: int = 64, **truth) -> list[Sample]:
    return run(np.random.default_rng(seed), prompts, nearness=nearness, **truth)


def looks(pairs: list[Sample], margins: Margins = MARGINS) -> list[Progress]:
    """What is said after each prompt."""
    order = order_of(pairs)
    return [follow(pairs[: 2 * (count + 1)], order, 2, margins) for count in range(len(order))]


def test_it_stops_for_b_and_keeps_its_answer():
    pairs = simulated()
    states = looks(pairs)
    end = follow(pairs, order_of(pairs), 2, MARGINS)
    assert end.passed is True
    assert 5 < end.prompts < 64
    for count, state in enumerate(states, start=1):
        if count < end.prompts:
            assert (state.passed, state.finished, state.prompts) == (None, False, count)
            assert state.sentence() == f"Not decided yet, after {count} of at most 64 prompts."
        else:
            assert state == end
    assert all(claim.shown for claim in end.claims)
    assert end.sentence() == f"Decided after {end.prompts} of at most 64 prompts: B is faster and non-inferior."


@pytest.mark.parametrize(
    ("truth", "lost"),
    [({"speedup": 0.5}, "faster"), ({"quality": -0.4}, "clip"), ({"nearness": 5.0}, "psnr")],
)
def test_it_stops_against_b_and_says_why(truth, lost):
    pairs = simulated(**truth)
    end = follow(pairs, order_of(pairs), 2, MARGINS)
    assert end.passed is False
    assert end.prompts < 64
    assert f'"{lost}" does not hold' in end.sentence()
    assert [claim.name for claim in end.claims if claim.shown is False] == [lost]


def test_an_endpoint_against_itself_stays_undecided_to_the_end():
    pairs = [replace(each, seconds_a=1.0, seconds_b=1.0, measures={"clip": 0.0, "psnr": 60.0}) for each in simulated()]
    end = follow(pairs, order_of(pairs), 2, MARGINS)
    assert (end.passed, end.finished, end.prompts) == (None, True, 64)
    assert end.sentence() == "Undecided after 64 of at most 64 prompts."
    assert end.claims[0].interval.value == 0.5


def test_answers_may_come_in_any_order_and_the_run_may_break():
    pairs = simulated()
    order = order_of(pairs)
    shuffled = [pairs[index] for index in np.random.default_rng(1).permutation(len(pairs))]
    assert follow(shuffled, order, 2, MARGINS) == follow(pairs, order, 2, MARGINS)
    # The second prompt lacks a seed: nothing after it counts, so that quick answers get no lead.
    assert follow([*pairs[:3], *pairs[4:]], order, 2, MARGINS).prompts == 1
    none = follow([], order, 2, MARGINS)
    assert (none.prompts, none.claims, none.finished) == (0, (), False)


def test_failures_hold_an_answer_back_and_decide_at_the_end():
    pairs = simulated()
    failed = [replace(pairs[0], seconds_b=math.nan, measures={}), *pairs[1:]]
    end = follow(failed, order_of(pairs), 2, MARGINS)
    assert (end.passed, end.prompts) == (False, 64)
    assert "B fails more often than allowed" in end.sentence()
    allowed = replace(MARGINS, extra_failures=0.05)
    patient = follow(failed, order_of(pairs), 2, allowed)
    assert patient.passed is True
    assert patient.prompts >= 10  # one failure in twenty pairs
    nothing = [replace(each, seconds_a=math.nan, seconds_b=math.nan, measures={}) for each in pairs]
    assert follow(nothing, order_of(pairs), 2, MARGINS).passed is None


def test_no_figures_move_no_claim_and_json_has_no_nan():
    pairs = [replace(each, measures={}) for each in simulated()]
    end = follow(pairs, order_of(pairs), 2, MARGINS)
    assert end.passed is None
    assert end.claims[1].shown is None
    assert json.loads(json.dumps(end.to_dict(), allow_nan=False))["claims"][1]["value"] is None


def test_figures_beyond_the_bound_are_clipped_and_counted():
    pairs = [replace(each, measures={"clip": 100.0, "psnr": 30.0}) for each in simulated(prompts=10)]
    claim = follow(pairs, order_of(pairs), 2, MARGINS).claims[1]
    assert claim.clipped == 10
    assert claim.interval.value == pytest.approx(0.3)  # 0.4 above the margin of -0.1


def test_lower_may_be_nearer():
    margins = Margins(fidelity={"psnr": Fidelity(30, lower_is_nearer=True, bound=30)})
    pairs = [replace(each, measures={"psnr": each.measures["psnr"]}) for each in simulated(nearness=10)]
    end = follow(pairs, order_of(pairs), 2, margins)
    assert end.passed is True
    assert end.claims[1].interval.low < 10 < end.claims[1].interval.high < 30


def test_what_cannot_be_is_refused_with_every_field():
    pairs = simulated(nearness=None, prompts=2)
    with pytest.raises(InvalidInput) as refused:
        follow(pairs, ["prompt 0", "prompt 0"], 0, Margins({"clip": Quality(0.1)}))
    assert {each.field for each in refused.value.problems} == {
        *("quality.clip.bound", "order", "seeds", "pairs", "pairs['prompt 0']"),
    }
    with pytest.raises(InvalidInput, match="at least one measure with a limit"):
        follow(pairs, order_of(pairs), 2, Margins({"clip": Quality()}))


@pytest.mark.parametrize("values", [(-1.0, 1.0), (-1.0, 0.05), (-0.1, 1.0)])
def test_wealth_seldom_grows_on_fair_bets_whenever_one_looks(values):
    """Two values with mean 0: even and far to either side."""
    low, high = values
    chance = -low / (high - low)
    scores = np.where(np.random.default_rng(3).random((2000, 300)) < chance, high, low)
    ever = (log_wealth(scores).max(axis=1) >= math.log(20)).sum()
    assert at_most(0.05, int(ever), 2000)


def test_bounds_hold_at_every_look_and_close_in():
    rng = np.random.default_rng(4)
    truth = 0.2
    scores = rng.beta(3, 2, size=(500, 200)) * 2 - 1  # mean 2 · 3 / 5 - 1
    # A bound never falls as prompts come, so the last one holds only if all did.
    bounds = np.array([lower_bound(each, 0.05) for each in scores])
    assert at_most(0.05, int((bounds > truth).sum()), 500)
    assert np.median(bounds) > truth - 0.15
    assert lower_bound(scores[0, :20], 0.05) <= lower_bound(scores[0], 0.05)


@pytest.mark.parametrize("truth", [{"quality": -0.1}, {"speedup": 1.0}, {"quality": -0.1, "speedup": 1.0}])
def test_false_alarms_over_all_looks(truth):
    """Claims at their limits are neither shown nor refuted more often than alpha.

    `follow` answers as at the first look that decides, so one call is a look after every prompt.
    """
    rng = np.random.default_rng(5)
    runs = [run(rng, prompts=40, seeds=1, spread=0.1, **truth) for _ in range(500)]
    ends = [follow(pairs, order_of(pairs), 1, QUALITY).passed for pairs in runs]
    assert at_most(0.05, ends.count(True), 500)
    assert at_most(0.05, ends.count(False), 500)

"""The load test without a server: its requests, the check of replies, and its figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hybridstitch import HybridStitchPipeline, InvalidInput
from hybridstitch.wire.request import parse_request
from tests.load.traffic import (
    CHOICES,
    REFUSED,
    SIZES,
    LoadRequest,
    Reply,
    complaint,
    complaints,
    latencies,
    leaks,
    memory_figures,
    mixed,
    percentiles,
    valid_requests,
)

GOOD = valid_requests(["red apple on blue", "rocket on black"], steps=6)
VALID = GOOD[0]
PICTURE = np.full((64, 64, 3), 100, np.uint8)
REFERENCES = {VALID.key: PICTURE}
ANSWERED = Reply(VALID, seconds=1.0, finished=1.0, status=200, picture=PICTURE)
INVALID = LoadRequest("refused", {"prompt": ""}, "prompt")
REFUSAL = Reply(INVALID, seconds=0.1, finished=0.1, status=400, refused=frozenset({"prompt"}))


def test_every_recipe_in_every_size() -> None:
    assert len({request.key for request in GOOD}) == len(GOOD) == 2 * len(CHOICES) * len(SIZES)
    assert {request.kind for request in GOOD} == {
        "large",
        "small",
        "hybridstitch",
        "hybridstitch-plus",
        "speed 2.5",
    }


def test_the_mix_is_even_seeded_and_has_its_share_of_bad_ones() -> None:
    requests = mixed(GOOD, 320, 0.05, seed=0)
    good = Counter(request.key for request in requests if request.wrong is None)
    assert len(requests) == 320
    assert sum(good.values()) == 304
    assert len(good) == len(GOOD)
    assert max(good.values()) - min(good.values()) <= 1
    assert {request.wrong for request in requests} == {None} | {field for kind in REFUSED for field in kind}
    assert requests == mixed(GOOD, 320, 0.05, seed=0) != mixed(GOOD, 320, 0.05, seed=1)
    assert [request.wrong for request in mixed(GOOD, 5, 0.05, seed=0)].count(None) == 4


def test_the_endpoint_takes_the_good_ones_and_names_the_field_of_the_bad(emoji_pipe: HybridStitchPipeline) -> None:
    limits, catalogue = emoji_pipe.size_limits, emoji_pipe.catalogue
    for request in mixed(GOOD, 60, 0.2, seed=0):
        if request.wrong is None:
            parsed = parse_request(dict(request.fields), {}, limits, catalogue)
            assert parsed.generation.width == request.fields["width"]
        else:
            with pytest.raises(InvalidInput) as refused:
                parse_request(dict(request.fields), {}, limits, catalogue)
            assert [problem.field for problem in refused.value.problems] == [request.wrong]


def test_right_answers_raise_no_complaint() -> None:
    assert complaint(ANSWERED, REFERENCES) is None
    assert complaint(replace(ANSWERED, picture=PICTURE + 1), REFERENCES) is None
    assert complaint(REFUSAL, REFERENCES) is None


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (replace(ANSWERED, picture=PICTURE - 2), "2 grey levels away"),
        (replace(ANSWERED, picture=PICTURE[:32]), r"picture of \(32, 64, 3\)"),
        (replace(ANSWERED, status=503, picture=None, error="no worker"), "got 503: no worker"),
        (replace(ANSWERED, status=None, picture=None, error="timed out"), "no answer.*timed out"),
        (replace(REFUSAL, status=200), "got 200"),
        (replace(REFUSAL, refused=frozenset({"prompt", "seed"})), "about .'prompt', 'seed'., not 400 about prompt"),
        (replace(REFUSAL, refused=frozenset()), "not 400 about prompt"),
    ],
)
def test_wrong_answers_raise_one(reply: Reply, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(complaint(reply, REFERENCES))


def test_lost_requests_are_reported() -> None:
    assert complaints([VALID, INVALID], [ANSWERED, REFUSAL], REFERENCES) == []
    assert complaints([VALID, INVALID, INVALID], [ANSWERED, REFUSAL], REFERENCES) == [
        "1 of 3 requests were never finished"
    ]


def test_percentiles_lie_between_neighbours() -> None:
    assert percentiles([*range(101)]) == {"p50_s": 50, "p95_s": 95, "p99_s": 99}
    assert percentiles([1, 2])["p50_s"] == 1.5


def test_latencies_count_refusals_apart() -> None:
    rows = {row["requests"]: row for row in latencies([ANSWERED, replace(ANSWERED, seconds=3.0), REFUSAL])}
    assert rows["all pictures"]["count"] == rows["large"]["count"] == 2
    assert rows["all pictures"]["p50_s"] == 2
    assert rows["refused"]["p50_s"] == 0.1


def test_memory_is_judged_after_warm_up() -> None:
    replies = [replace(ANSWERED, finished=float(second)) for second in range(1, 11)]
    samples = [(float(second), 500.0 if second < 3 else 600.0 + 2 * second) for second in range(12)]
    figures = memory_figures(samples, replies)
    assert (figures["start_mib"], figures["warm_mib"], figures["end_mib"]) == (500, 606, 622)
    assert figures["slope_mib_per_minute"] == pytest.approx(120)
    assert not leaks(figures)
    assert leaks(figures | {"end_mib": 640.0})

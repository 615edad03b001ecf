"""Requests of a load test, the check of their replies, and the figures of a run. Needs no server."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

GREY_LEVELS = 1
"""Largest difference of a pixel from the picture generated in process. Batches and threads sum in another order."""
WARM_SHARE = 0.2
"""Share of the requests before the memory of a worker counts: the first ones of each size and recipe allocate."""
GROWTH_LIMIT = 0.05
"""Largest growth after warm-up, relative to the memory at its end. More is a leak."""

CHOICES: tuple[dict[str, Any], ...] = (
    {"recipe": "large"},
    {"recipe": "small"},
    {"recipe": "hybridstitch"},
    {"recipe": "hybridstitch-plus"},
    {"speed": 2.5},
)
SIZES = ((64, 64), (128, 128), (128, 96))
REFUSED: tuple[dict[str, Any], ...] = (
    {"prompt": ""},
    {"seed": -1},
    {"num_inference_steps": 0},
    {"guidance_scale": "4.5"},
    {"width": 101},
    {"height": 2**20},
    {"recipe": "fastest"},
    {"speed": 0.5},
    {"output_format": "gif"},
    {"colour": "red"},
)
"""Invalid fields. Each makes a request invalid, and the error must name the field."""


@dataclass(frozen=True)
class LoadRequest:
    """One request of a load test.

    Attributes:
        kind: Row of the table that it counts in.
        fields: Body of the request.
        wrong: The invalid field, None for a valid request.
    """

    kind: str
    fields: Mapping[str, Any]
    wrong: str | None = None

    @property
    def key(self) -> str:
        """Equal for requests that must get equal pictures."""
        return repr(sorted(self.fields.items()))


@dataclass(frozen=True)
class Reply:
    """The reply to a request, or its failure.

    Attributes:
        request: The request.
        seconds: Time from sending the request to the end of the reply.
        finished: End of the reply, in seconds on a clock that all replies of a run share.
        status: HTTP status, None if no reply came.
        refused: Fields that an error names.
        picture: Pixels `(height, width, 3)` in 0..255.
        error: Message of a failure.
    """

    request: LoadRequest
    seconds: float
    finished: float
    status: int | None
    refused: frozenset[str] = frozenset()
    picture: np.ndarray | None = None
    error: str = ""


def valid_requests(prompts: Sequence[str], steps: int) -> list[LoadRequest]:
    """Return every prompt with every recipe and size. Prompt i has seed i."""
    return [
        LoadRequest(
            " ".join(str(part) for part in next(iter(choice.items()))).removeprefix("recipe "),
            {
                "prompt": prompt,
                "seed": seed,
                "num_inference_steps": steps,
                "width": width,
                "height": height,
                **choice,
            },
        )
        for (seed, prompt), choice, (width, height) in itertools.product(enumerate(prompts), CHOICES, SIZES)
    ]


def mixed(good: Sequence[LoadRequest], count: int, bad_share: float, seed: int) -> list[LoadRequest]:
    """Return `count` requests in random order, `max(1, round(bad_share * count))` of them invalid.

    The others cycle through the valid requests. `seed` decides the order and the invalid requests.
    """
    order = random.Random(seed)
    bad_count = max(1, round(count * bad_share))
    kinds = order.sample(REFUSED, len(REFUSED))
    bad = [_spoilt(order.choice(good), kind) for kind in itertools.islice(itertools.cycle(kinds), bad_count)]
    fine = order.sample(good, len(good))
    requests = [*itertools.islice(itertools.cycle(fine), count - bad_count), *bad]
    order.shuffle(requests)
    return requests


def _spoilt(good: LoadRequest, kind: Mapping[str, Any]) -> LoadRequest:
    (field,) = kind
    without_choice = {name: value for name, value in good.fields.items() if name not in ("recipe", "speed")}
    return LoadRequest("refused", {**without_choice, **kind}, field)


def complaint(reply: Reply, references: Mapping[str, np.ndarray]) -> str | None:
    """Return what is wrong with a reply, None if nothing is.

    Args:
        reply: The reply.
        references: Pictures generated in process, by `LoadRequest.key`.
    """
    request = reply.request
    if reply.status is None:
        return f"no answer to {request.fields}: {reply.error}"
    if request.wrong is not None:
        if (reply.status, reply.refused) == (400, {request.wrong}):
            return None
        return f"{request.fields} got {reply.status} about {sorted(reply.refused)}, not 400 about {request.wrong}"
    if reply.status != 200 or reply.picture is None:
        return f"{request.fields} got {reply.status}: {reply.error}"
    expected = references[request.key]
    if reply.picture.shape != expected.shape:
        return f"{request.fields} got a picture of {reply.picture.shape}, not {expected.shape}"
    apart = int(np.abs(reply.picture.astype(int) - expected.astype(int)).max())
    return f"{request.fields} got a picture {apart} grey levels away" if apart > GREY_LEVELS else None


def complaints(
    requests: Sequence[LoadRequest], replies: Sequence[Reply], references: Mapping[str, np.ndarray]
) -> list[str]:
    """Return everything that is wrong with the replies, and the number of lost requests."""
    found = [text for reply in replies if (text := complaint(reply, references))]
    lost = len(requests) - len(replies)
    return [*found, f"{lost} of {len(requests)} requests were never finished"] if lost else found


def latencies(replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """Return a row for all valid requests, then one for each kind: count, and p50, p95 and p99 in seconds."""
    valid = [reply for reply in replies if reply.request.wrong is None]
    kinds = sorted({reply.request.kind for reply in replies})
    groups = {"all pictures": valid} | {kind: [each for each in replies if each.request.kind == kind] for kind in kinds}
    return [
        {"requests": name, "count": len(group), **percentiles([each.seconds for each in group])}
        for name, group in groups.items()
        if group
    ]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99, interpolated linearly."""
    return {f"p{q}_s": float(np.percentile(seconds, q)) for q in (50, 95, 99)}


def memory_figures(samples: Sequence[tuple[float, float]], replies: Sequence[Reply]) -> dict[str, float]:
    """Return the memory of the workers in MiB at the start, after warm-up and at the end, and its slope after warm-up.

    Args:
        samples: (seconds, MiB) on the clock of the replies, the first before all of them and the last after them.
        replies: Replies of the run.
    """
    finished = sorted(reply.finished for reply in replies)
    warm_at = finished[int(len(finished) * WARM_SHARE)]
    warm = [sample for sample in samples if sample[0] >= warm_at]
    seconds, mebibytes = np.array(warm).T
    slope = float(np.polyfit(seconds, mebibytes, 1)[0]) if len(warm) > 1 else 0.0
    return {
        "start_mib": samples[0][1],
        "warm_mib": warm[0][1],
        "end_mib": warm[-1][1],
        "slope_mib_per_minute": 60 * slope,
        "samples_after_warm_up": len(warm),
    }


def leaks(memory: Mapping[str, float]) -> bool:
    """Return whether the memory grew after warm-up by more than `GROWTH_LIMIT`."""
    return memory["end_mib"] > (1 + GROWTH_LIMIT) * memory["warm_mib"]

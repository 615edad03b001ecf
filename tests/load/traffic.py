"""The requests of a load run, what their answers must be, and the numbers that sum them up; no server takes part."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

GREY_LEVELS = 1
"""How far a pixel may be from the picture drawn in process: batches and threads add up in another order."""
WARM_SHARE = 0.2
"""Of the requests, answered before the memory of a worker counts: the first of each size and recipe allocate."""
GROWTH_LIMIT = 0.05
"""Of the memory after warm-up: more is a leak."""

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
"""What makes a request bad, each by one field, which the refusal must name."""


@dataclass(frozen=True)
class LoadRequest:
    """One request. kind: the row of the table it counts in. wrong: the field to be refused, None if all is fine."""

    kind: str
    fields: Mapping[str, Any]
    wrong: str | None = None

    @property
    def key(self) -> str:
        """Equal for requests that must get equal pictures."""
        return repr(sorted(self.fields.items()))


@dataclass(frozen=True)
class Reply:
    """What came of a request. status: None if no answer came, and `error` says why.

    refused: the fields that the answer names. picture: `(height, width, 3)` in 0..255. finished: seconds on a clock
    that all replies of a run share.
    """

    request: LoadRequest
    seconds: float
    finished: float
    status: int | None
    refused: frozenset[str] = frozenset()
    picture: np.ndarray | None = None
    error: str = ""


def valid_requests(prompts: Sequence[str], steps: int) -> list[LoadRequest]:
    """Every recipe in every size, for each prompt; prompt i has seed i."""
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
    """Cycles through the valid requests and mixes in `max(1, round(bad_share * count))` invalid ones.

    seed: of the order.
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
    """What is wrong with a reply; None if nothing is. references: pictures drawn in process, by `LoadRequest.key`."""
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
    """Everything wrong with a run, lost requests too."""
    found = [text for reply in replies if (text := complaint(reply, references))]
    lost = len(requests) - len(replies)
    return [*found, f"{lost} of {len(requests)} requests were never finished"] if lost else found


def latencies(replies: Sequence[Reply]) -> list[dict[str, Any]]:
    """A row for all that got pictures, then one for each kind: how many, and seconds at p50, p95 and p99."""
    drawn = [reply for reply in replies if reply.request.wrong is None]
    kinds = sorted({reply.request.kind for reply in replies})
    groups = {"all pictures": drawn} | {kind: [each for each in replies if each.request.kind == kind] for kind in kinds}
    return [
        {"requests": name, "count": len(group), **percentiles([each.seconds for each in group])}
        for name, group in groups.items()
        if group
    ]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, between neighbours where none is exactly there."""
    return {f"p{q}_s": float(np.percentile(seconds, q)) for q in (50, 95, 99)}


def memory_figures(samples: Sequence[tuple[float, float]], replies: Sequence[Reply]) -> dict[str, float]:
    """The memory of the workers in MiB at the start, after warm-up and at the end, and its slope after warm-up.

    samples: (seconds, MiB) on the clock of the replies; at least one is taken before and one after them.
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
    """Whether the memory grew after warm-up by more than the limit."""
    return memory["end_mib"] > (1 + GROWTH_LIMIT) * memory["warm_mib"]

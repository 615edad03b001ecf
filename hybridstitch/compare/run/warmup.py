"""Warm-up requests, which do not count. They show within seconds whether both sides answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from threading import Thread
from typing import Any

from hybridstitch.compare.endpoints.open import open_endpoints
from hybridstitch.compare.endpoints.spec import NO_FIELDS, UNREACHABLE, Answer, Credentials, Endpoint, Spec
from hybridstitch.errors import Problem, raise_problems

GRACE_SECONDS = 2.0
"""Time for the other side to answer after one has failed. A run that cannot begin must not wait for a picture."""
REFUSED = re.compile(r"40[13]:|InvalidKeyException")
"""Matches the errors of a server that requires a token, or another token."""


def open_warm(
    specs: Mapping[str, Spec],
    credentials: Credentials,
    timeout: float,
    prompt: str,
    seed: int,
    count: int,
    fields: Mapping[str, Any] = NO_FIELDS,
) -> tuple[dict[str, Endpoint], dict[str, bytes]]:
    """Open both sides and send `count` warm-up requests to each.

    Sides over HTTP come first and in parallel, so that no pair is loaded if a server refuses the requests. Pair
    folders take turns, because two models that generate at once take longer than one after the other.

    Returns:
        The endpoints by side, and a picture of each side; no pictures with a `count` of 0.

    Raises:
        InvalidInput: An endpoint cannot be opened, or does not answer with a picture.
    """
    remote = {side: spec for side, spec in specs.items() if spec.is_url}
    endpoints = open_endpoints(remote, credentials, timeout)
    pictures = warm_up(endpoints, prompt, seed, count, fields)
    opened = open_endpoints({side: spec for side, spec in specs.items() if not spec.is_url}, credentials, timeout)
    for side, endpoint in opened.items():
        pictures |= warm_up({side: endpoint}, prompt, seed, count, fields)
    return {side: (endpoints | opened)[side] for side in specs}, pictures


def warm_up(
    endpoints: Mapping[str, Endpoint], prompt: str, seed: int, count: int, fields: Mapping[str, Any] = NO_FIELDS
) -> dict[str, bytes]:
    """Send `count` requests to every endpoint, to all endpoints in parallel, and return a picture of each side.

    Raises:
        InvalidInput: Names each side that returned no picture.
    """
    answers: dict[str, list[Answer]] = {side: [] for side in endpoints}

    def ask(side: str) -> None:
        for _ in range(count):
            answers[side].append(endpoints[side].ask(prompt, seed, fields))

    threads = {side: Thread(target=ask, args=(side,), daemon=True) for side in endpoints}
    for thread in threads.values():
        thread.start()
    problems: dict[str, Problem] = {}
    while any(thread.is_alive() for thread in threads.values()) and not problems:
        for side, thread in threads.items():
            thread.join(0.05)
            problems |= {} if thread.is_alive() else _problems(side, answers[side])
    for thread in threads.values():
        thread.join(GRACE_SECONDS if problems else None)
    for side, thread in threads.items():
        problems |= {} if thread.is_alive() else _problems(side, answers[side])
    raise_problems([problems[side] for side in endpoints if side in problems])
    return {side: answer.picture for side, each in answers.items() for answer in each if answer.picture}


def _problems(side: str, answers: list[Answer]) -> dict[str, Problem]:
    if not answers or any(answer.error is None for answer in answers):
        return {}
    error = answers[0].error or ""
    expected = "an endpoint that generates a picture of the first prompt as a warm-up"
    if REFUSED.search(error):
        expected += (
            f"; its token comes from --key-file-{side} (the key_file.json of a server) or HYBRIDSTITCH_TOKEN_"
            f"{side.upper()}, another key from --header-{side}"
        )
    if error.startswith(UNREACHABLE):
        expected += "; start its server, or correct the address"
    return {side: Problem(side, expected, error)}

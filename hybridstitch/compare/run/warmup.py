"""The requests before any that counts: they show within seconds whether both sides answer at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from threading import Thread
from typing import Any

from hybridstitch.compare.endpoints.open import open_endpoints
from hybridstitch.compare.endpoints.spec import NO_FIELDS, UNREACHABLE, Answer, Credentials, Endpoint, Spec
from hybridstitch.errors import Problem, raise_problems

GRACE_SECONDS = 2.0
"""How long the other side may still take once one has failed: a run that cannot begin must not wait for a picture."""
REFUSED = re.compile(r"40[13]:|InvalidKeyException")
"""What errors of a server that wants a token, or another one, look like."""


def open_warm(
    specs: Mapping[str, Spec],
    credentials: Credentials,
    timeout: float,
    prompt: str,
    seed: int,
    count: int,
    fields: Mapping[str, Any] = NO_FIELDS,
) -> tuple[dict[str, Endpoint], dict[str, bytes]]:
    """Both sides, each asked `count` times, and a picture of each (none with a count of 0).

    Sides over HTTP come first, at the same moment: nothing is loaded for a server that refuses us. Those of this
    machine take turns, as two models that generate at once take longer than one after the other.
    Raises InvalidInput for endpoints that cannot be opened, and for those that do not answer.
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
    """Ask every endpoint `count` times, all of them at the same moment; a picture of each side that was asked.

    Raises InvalidInput that names each side of which no request brought a picture.
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

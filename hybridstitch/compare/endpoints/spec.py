"""Endpoint strings: a predictions URL or a pair folder, with the fields that every request gets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from hybridstitch.base.paths import INDEX
from hybridstitch.base.suggestions import one_of
from hybridstitch.compare.endpoints.formats import SHAPES
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.serving.client.address import shown_address

KINDS = ("auto", *SHAPES)
OTHER_NAMES = {"own": "hybridstitch"}
"""Further names of kinds: `dialect=` takes the names of the dialects, which are kinds, too."""
OF_THE_RUN = ("prompt", "n", "num_images", "response_format", "stream")
"""Fields that a comparison sets itself: both sides generate one picture of the same prompt at a time."""
CAN_BE_LEFT_OUT = ("n", "response_format")
"""Those of them that a server may refuse. An endpoint string without a value for one leaves it out."""
HIDDEN = "hidden-"
"""Prefix of the digest that replaces a query's value in reports."""
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
UNREACHABLE = "unreachable"
"""Prefix of the error of a server that accepts no connection or closes it."""


@dataclass(frozen=True)
class Credentials:
    """The token and the headers of each side. They are sent to that side alone and written nowhere."""

    tokens: Mapping[str, str | None]
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The answer to one request: a picture or a failure.

    Attributes:
        seconds: Time from sending the request to the last byte of the answer.
        picture: The encoded picture; None for a failure.
        extension: Its format: `png`, `jpg` or `webp`.
        report: The endpoint's report about the picture, if it has one.
        error: The cause of a failure; None for a picture.
    """

    seconds: float
    picture: bytes | None = None
    extension: str = ""
    report: Mapping[str, Any] | None = None
    error: str | None = None


class Endpoint(Protocol):
    """Generates one picture a call. Several threads may call it at once."""

    spec: Spec

    def ask(self, prompt: str, seed: int, fields: Mapping[str, Any] = NO_FIELDS) -> Answer:
        """Return a picture, or a failure as an answer. No failure of the endpoint raises an exception.

        Args:
            prompt: The prompt.
            seed: Seed of the picture.
            fields: Further fields of this request; fields of the endpoint string take precedence.
        """

    def describe(self) -> dict[str, Any]:
        """Return the description of the endpoint for the report."""


@dataclass(frozen=True)
class Spec:
    """An endpoint string in its parts.

    Attributes:
        text: The whole string.
        target: URL, or folder of a pair.
        fields: Fields of every request.
        kind: Shape of requests and answers, see `formats.SHAPES`; "auto" recognises it.
        sends_seed: False for servers that take no seed.
        left_out: Fields of the run that this server does not take.
    """

    text: str
    target: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "auto"
    sends_seed: bool = True
    left_out: tuple[str, ...] = ()

    @property
    def is_url(self) -> bool:
        """Whether it is a server; otherwise it generates in this process."""
        return bool(re.match("https?://", self.target))


def parse_endpoint(text: str, side: str = "endpoint") -> Spec:
    """Return the parts of `TARGET#field=value&…`. A value is JSON if it can be parsed as JSON, otherwise text.

    `kind=` or `dialect=` names one of `KINDS`, `seed=off` a server that takes no seed. A field of `CAN_BE_LEFT_OUT`
    without a value is not sent. Raises InvalidInput with every problem.
    """
    target, _, fragment = text.partition("#")
    problems = _target_problems(side, target)
    pairs: list[tuple[str, str]] = []
    try:
        pairs = parse_qsl(fragment, keep_blank_values=True, strict_parsing=True) if fragment else []
    except ValueError:
        problems.append(Problem(side, "fields after # as name=value, joined by &", fragment))
    names = [name for name, _ in pairs]
    problems += [
        Problem(f"{side}#{name}", "each field once", name) for name in sorted(set(names)) if names.count(name) > 1
    ]
    fields = {name: _value(value) for name, value in pairs}
    named = [(name, fields.pop(name)) for name in ("kind", "dialect") if name in fields]
    kind, seed = named[0][1] if named else "auto", fields.pop("seed", "on")
    kind = OTHER_NAMES.get(kind, kind) if isinstance(kind, str) else kind
    if len(named) > 1:
        problems.append(Problem(f"{side}#dialect", "nothing beside kind, which names the same", named[1][1]))
    elif kind not in KINDS:
        problems.append(Problem(f"{side}#{named[0][0]}", one_of((*KINDS, *OTHER_NAMES), kind), kind))
    if seed not in ("on", "off"):
        problems.append(Problem(f"{side}#seed", "off, or nothing: the seeds of the comparison are sent", seed))
    left_out = tuple(name for name in CAN_BE_LEFT_OUT if fields.get(name) == "")
    for name in OF_THE_RUN:
        if name in fields and name not in left_out:
            expected = f"nothing after {name}=, which takes it out" if name in CAN_BE_LEFT_OUT else "no such field"
            problems.append(Problem(f"{side}#{name}", f"{expected}: the comparison sets it", fields[name]))
    fields = {name: value for name, value in fields.items() if name not in left_out}
    if kind == "text" and fields:
        problems.append(Problem(f"{side}#kind", "no fields: kind text sends the prompt alone", sorted(fields)))
    raise_problems(problems)
    return Spec(text, target, fields, kind, seed == "on" and kind != "text", left_out)


def without_secrets(text: str) -> str:
    """Return an endpoint string with a short digest in place of each value of its query.

    Equal values have equal digests, so the folder of another comparison is still recognised. Digests stay unchanged.
    """
    target, mark, fragment = text.partition("#")
    address, question, query = target.partition("?")
    if not question or "://" not in target:
        return text
    return f"{address}?{'&'.join(map(_hidden, query.split('&')))}{mark}{fragment}"


def _hidden(part: str) -> str:
    name, equals, value = part.rpartition("=")
    if re.fullmatch(f"{HIDDEN}[0-9a-f]{{8}}", value):
        return part
    return f"{name}{equals}{HIDDEN}{sha256(value.encode()).hexdigest()[:8]}"


def _target_problems(side: str, target: str) -> list[Problem]:
    if "://" not in target:
        is_pair = bool(target) and (Path(target) / INDEX).is_file()
        return [] if is_pair else [Problem(side, "a predictions URL, or the folder of a packed pair", target)]
    problems = []
    try:
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            problems.append(
                Problem(
                    side, "an address such as http://127.0.0.1:8080/predictions/hybridstitch", shown_address(target)
                )
            )
        elif parts.path in ("", "/"):
            problems.append(
                Problem(side, "the path of predictions, such as /predictions/hybridstitch", shown_address(target))
            )
        if parts.username or parts.password:
            expected = "no user in the address; the token comes from a key file or the environment"
            return [Problem(side, expected, shown_address(target))]
    except ValueError:  # a port that is no number, brackets that do not close
        problems.append(
            Problem(side, "an address such as http://127.0.0.1:8080/predictions/hybridstitch", shown_address(target))
        )
    return problems


def _value(text: str) -> Any:
    """JSON where it is strict JSON, otherwise the text."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return text

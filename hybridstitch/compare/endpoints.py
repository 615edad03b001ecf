"""What an endpoint is: a predictions URL or a pair folder, with the fields that every request gets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from hybridstitch.compare.shapes import SHAPES
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.serving.address import shown_address
from hybridstitch.serving.tokens import read_key_file, token_in

KINDS = ("auto", *SHAPES)
OF_THE_RUN = ("prompt", "n", "num_images", "response_format", "stream")
"""Fields that a comparison sets itself: both sides draw one picture of the same prompt at a time."""
MAX_SECONDS = 3600.0
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    seconds: from sending it to the last byte of the answer. picture: its bytes, None for a failure, and `extension`
    their format. report: what the endpoint says it computed, if it says so. error: why there is no picture.
    """

    seconds: float
    picture: bytes | None = None
    extension: str = ""
    report: Mapping[str, Any] | None = None
    error: str | None = None


class Endpoint(Protocol):
    """Draws one picture at a time, from several threads where a comparison asks for that."""

    spec: Spec

    def ask(self, prompt: str, seed: int, fields: Mapping[str, Any] = NO_FIELDS) -> Answer:
        """One picture, or the failure as an answer: it raises nothing that the endpoint is the cause of.

        fields: of this request, below those of the endpoint.
        """

    def describe(self) -> dict[str, Any]:
        """What is known of it, for the report."""


@dataclass(frozen=True)
class Spec:
    """An endpoint string in its parts.

    target: URL, or folder of a pair. fields: go into every request. kind: how to ask and what to expect, see `shapes`.
    sends_seed: False for servers that take no seed.
    """

    text: str
    target: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "auto"
    sends_seed: bool = True

    @property
    def is_url(self) -> bool:
        """Whether it is asked over HTTP; otherwise it draws in this process."""
        return bool(re.match("https?://", self.target))


def parse_endpoint(text: str, side: str = "endpoint") -> Spec:
    """The parts of `TARGET#field=value&…`; a value is JSON where it can be read as such, otherwise text.

    `kind=` names one of `KINDS`, `seed=off` a server that takes no seed. Raises InvalidInput with every problem.
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
    kind, seed = fields.pop("kind", "auto"), fields.pop("seed", "on")
    if kind not in KINDS:
        problems.append(Problem(f"{side}#kind", "one of: " + ", ".join(KINDS), kind))
    if seed not in ("on", "off"):
        problems.append(Problem(f"{side}#seed", "off, or nothing: the seeds of the comparison are sent", seed))
    problems += [
        Problem(f"{side}#{name}", "a field that the comparison does not set itself", fields[name])
        for name in OF_THE_RUN
        if name in fields
    ]
    if kind == "text" and fields:
        problems.append(Problem(f"{side}#kind", "no fields: kind text sends the prompt alone", sorted(fields)))
    raise_if(problems)
    return Spec(text, target, fields, kind, seed == "on" and kind != "text")


def open_endpoint(spec: Spec, token: str | None = None, timeout: float = 600, side: str = "endpoint") -> Endpoint:
    """Ready to be asked. token: sent as a bearer token, never written anywhere. timeout: seconds for one answer.

    Raises InvalidInput for a folder that is no pair and for fields that a pair does not take.
    """
    if not 0 < timeout <= MAX_SECONDS:
        raise InvalidInput([Problem("timeout", f"seconds above 0, {MAX_SECONDS:g} at most", timeout)])
    if spec.is_url:
        from hybridstitch.compare.http_endpoint import HttpEndpoint

        return HttpEndpoint(spec, token, timeout)
    from hybridstitch.compare.pair_endpoint import PairEndpoint

    return PairEndpoint(spec, side)


def read_token(side: str, key_file: Path | None) -> str | None:
    """The token of a side, "a" or "b": from a server's key_file.json, else from HYBRIDSTITCH_TOKEN_A or _B, else None.

    Raises InvalidInput, which does not show what the file holds.
    """
    if key_file is None:
        return token_in(f"HYBRIDSTITCH_TOKEN_{side.upper()}")
    return read_key_file(key_file, "inference", field=f"key-file-{side}")["inference"]


def _target_problems(side: str, target: str) -> list[Problem]:
    if "://" not in target:
        is_pair = bool(target) and (Path(target) / "model_index.json").is_file()
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
        if parts.query:
            problems.append(Problem(side, "no ? in the address; fields of the request stand after #", "?…"))
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

"""Opens endpoints: a server by its predictions URL, or a pair folder in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hybridstitch.compare.endpoints.http import HttpEndpoint
from hybridstitch.compare.endpoints.pair import PairEndpoint
from hybridstitch.compare.endpoints.spec import NO_HEADERS, Credentials, Endpoint, Spec
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.serving.client.auth import read_credential

MAX_SECONDS = 3600.0


def open_endpoint(
    spec: Spec,
    token: str | None = None,
    timeout: float = 600,
    side: str = "endpoint",
    headers: Mapping[str, str] = NO_HEADERS,
) -> Endpoint:
    """Ready to be asked. token: sent as a bearer token, never written anywhere. timeout: seconds for one answer.

    headers: sent to a URL with every request, as secret as the token.

    Raises InvalidInput for a folder that is no pair and for fields that a pair does not take.
    """
    if not 0 < timeout <= MAX_SECONDS:
        raise InvalidInput([Problem("timeout", f"seconds above 0, {MAX_SECONDS:g} at most", timeout)])
    if spec.is_url:
        return HttpEndpoint(spec, token, timeout, headers)
    return PairEndpoint(spec, side)


def open_endpoints(specs: Mapping[str, Spec], credentials: Credentials, timeout: float) -> dict[str, Endpoint]:
    """All of these sides, see `open_endpoint`. Raises InvalidInput with the problems of all."""
    found: dict[str, Endpoint] = {}
    problems: list[Problem] = []
    for side, spec in specs.items():
        try:
            token, headers = credentials.tokens.get(side), credentials.headers.get(side, NO_HEADERS)
            found[side] = open_endpoint(spec, token, timeout, side, headers)
        except InvalidInput as error:
            problems += error.problems
    raise_problems(problems)
    return found


def read_token(side: str, key_file: Path | None) -> str | None:
    """The token of a side, "a" or "b": from a server's key_file.json, else from HYBRIDSTITCH_TOKEN_A or _B, else None.

    Raises InvalidInput, which does not show what the file holds.
    """
    variable = f"HYBRIDSTITCH_TOKEN_{side.upper()}"
    return read_credential("inference", variable, key_file, field=f"key-file-{side}")

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
    """Return an endpoint that is ready for requests.

    Args:
        spec: The parts of the endpoint string.
        token: Sent to a URL as a bearer token, and written nowhere.
        timeout: Seconds for one answer, above 0 to 3600.
        side: Name of the endpoint in errors.
        headers: Sent to a URL with every request, and as secret as the token.

    Raises:
        InvalidInput: The folder is no pair, or has no such field; or the timeout is out of range.
    """
    if not 0 < timeout <= MAX_SECONDS:
        raise InvalidInput([Problem("timeout", f"seconds above 0, {MAX_SECONDS:g} at most", timeout)])
    if spec.is_url:
        return HttpEndpoint(spec, token, timeout, headers)
    return PairEndpoint(spec, side)


def open_endpoints(specs: Mapping[str, Spec], credentials: Credentials, timeout: float) -> dict[str, Endpoint]:
    """Return the endpoints of all sides, see `open_endpoint`. Raises InvalidInput with the problems of all sides."""
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
    """Return the token of a side, "a" or "b"; None if there is none.

    It comes from a server's key_file.json or, without a file, from HYBRIDSTITCH_TOKEN_A or _B. The InvalidInput for a
    wrong file does not show its content.
    """
    variable = f"HYBRIDSTITCH_TOKEN_{side.upper()}"
    return read_credential("inference", variable, key_file, field=f"key-file-{side}")

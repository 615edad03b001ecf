"""Parses addresses of servers: what `hybridstitch serve` prints, or without the path."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from hybridstitch.errors import InvalidInput, Problem

CALLS = re.compile(r"/(?:predictions|explanations)/(?P<model>[^/]+(?:/[^/]+)?)/?$")
EXAMPLE = "http://HOST:PORT or https://HOST:PORT"


@dataclass(frozen=True)
class Address:
    """The address of a server, and the model that it names.

    Attributes:
        base: "http://HOST:PORT", with the path of a proxy if there is one.
        scheme: "http" or "https".
        host: Name or IP address.
        port: None: the scheme's own.
        model: "NAME" or "NAME/VERSION". None: the address names none.
    """

    base: str
    scheme: str
    host: str
    port: int | None
    model: str | None = None

    def next_port(self) -> str | None:
        """The address of the next port, where `serve` has its management; None without a port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port + 1}" if self.port else None


def parse_address(field: str, url: object) -> Address:
    """The parts of an address. /predictions/NAME or /explanations/NAME at its end names the model.

    Args:
        field: Name of the address in messages.
        url: The address.

    Raises:
        InvalidInput: For a text that is no address, and for a user, a password or a query: these may be secrets. No
            message shows them.
    """
    text = url if isinstance(url, str) else ""
    wrong = ""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidInput([Problem(field, EXAMPLE, shown_address(url))]) from None
    if "@" in parts.netloc:
        wrong = "without a user or a password; a token goes into token or a key file"
    elif parts.query or parts.fragment or "?" in text or "#" in text:
        wrong = "without ? and #; a token goes into token or a key file"
    elif (
        parts.scheme not in ("http", "https") or not host or port == 0 or not text.isprintable() or " " in text.strip()
    ):
        raise InvalidInput([Problem(field, EXAMPLE, shown_address(url))])
    if wrong:
        raise InvalidInput([Problem(field, f"{EXAMPLE}, {wrong}", shown_address(url))])
    path = parts.path.rstrip("/")
    named = CALLS.search(path)
    model = unquote(named["model"]) if named else None
    path = path[: named.start()] if named else path
    return Address(f"{parts.scheme}://{parts.netloc}{path}", parts.scheme, host or "", port, model)


def parse_target(field: str, url: object) -> Address:
    """An address for gRPC: HOST:PORT, with or without http:// or https://. Raises as `parse_address`."""
    expected = "HOST:PORT, http://HOST:PORT or https://HOST:PORT"
    address = None
    with suppress(InvalidInput):
        address = parse_address(field, url if isinstance(url, str) and "://" in url else f"http://{url}")
    if address is None or address.port is None or address.base.count("/") != 2 or address.model:
        raise InvalidInput([Problem(field, expected, shown_address(url))])
    return address


def shown_address(url: object) -> str:
    """An address for a message: without a user, a password, a query or a fragment."""
    if not isinstance(url, str):
        return type(url).__name__
    text = re.split(r"[?#]", url, maxsplit=1)[0]
    hidden = "?…" if text != url else ""
    scheme, mark, rest = text.rpartition("://")
    if "@" in rest:
        rest = f"…@{rest.rpartition('@')[2]}"
    return f"{scheme}{mark}{rest}{hidden}"

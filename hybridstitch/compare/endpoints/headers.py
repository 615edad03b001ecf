"""Headers that another server requires with every request, such as `x-api-key`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hybridstitch.errors import Problem, raise_problems
from hybridstitch.serving.client.auth import shown_path

OF_HTTP = ("host", "content-length", "content-type", "transfer-encoding", "connection")
"""Headers that HTTP sets, so a user cannot."""


def read_headers(side: str, given: Sequence[str]) -> dict[str, str]:
    """Return the headers in texts `NAME: VALUE`. `NAME: @FILE` reads the value from a file, without its line end.

    An InvalidInput shows no value, because a value may be a key.
    """
    field = f"header-{side}"
    found: dict[str, str] = {}
    problems: list[Problem] = []
    for text in given:
        name, colon, value = (part.strip() for part in text.partition(":"))
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            problems.append(Problem(field, "NAME: VALUE", "a text without a name and a colon"))
        elif name.lower() in OF_HTTP:
            problems.append(Problem(field, "a header that HTTP does not set itself", name))
        elif name.lower() in map(str.lower, found):
            problems.append(Problem(field, "each header once", name))
        else:
            try:
                value = Path(value[1:]).read_text().strip() if value.startswith("@") else value
                found[name] = value
                if not (value and value.isascii() and value.isprintable()):
                    problems.append(Problem(field, f"{name}: printable ASCII characters", "something else"))
            except (OSError, ValueError):
                expected = f"{name}: a file that can be read after @"
                problems.append(Problem(field, expected, shown_path(value[1:])))
    raise_problems(problems)
    return found

"""Messages about unknown names: what is known, and which of it was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 80
"""Characters of an unknown name that are compared."""
_SHORTEST = 4
"""Characters of an unknown name that is looked for as a word of a known one."""


def one_of(names: Iterable[str], got: object, words: str = "one of") -> str:
    """The known names, with the one nearest to `got` if there is any."""
    known = [*names]
    near = nearest(known, got)
    return f"{words}: {', '.join(known)}" + (f"; did you mean {near}?" if near else "")


def nearest(names: Iterable[str], got: object) -> str | None:
    """The name that `got` was probably meant to be, whatever its case: one spelt alike, else one with it as a word."""
    if not isinstance(got, str):
        return None
    by_lower = {name.lower(): name for name in names}
    wanted = got[:_LONGEST].lower()
    found = difflib.get_close_matches(wanted, [*by_lower], n=1)
    if not found and len(wanted) >= _SHORTEST:
        found = [name for name in by_lower if wanted in re.split(r"[-_]", name)]
    return by_lower[found[0]] if found else None

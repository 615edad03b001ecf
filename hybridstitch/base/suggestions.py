"""Messages about unknown names: the known names, and the one that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_LONGEST = 80
"""Characters of an unknown name to compare."""
_SHORTEST = 4
"""Fewest characters of an unknown name to search for as a word of a known one."""


def one_of(names: Iterable[str], got: object, words: str = "one of") -> str:
    """The known names, with the one nearest to `got` if there is any."""
    known = [*names]
    near = nearest(known, got)
    return f"{words}: {', '.join(known)}" + (f"; did you mean {near}?" if near else "")


def nearest(names: Iterable[str], got: object) -> str | None:
    """The name that `got` was probably meant to be, regardless of case; None if there is none.

    It is the one spelt most alike, or else one that contains `got` as a word.
    """
    if not isinstance(got, str):
        return None
    by_lower = {name.lower(): name for name in names}
    wanted = got[:_LONGEST].lower()
    found = difflib.get_close_matches(wanted, [*by_lower], n=1)
    if not found and len(wanted) >= _SHORTEST:
        found = [name for name in by_lower if wanted in re.split(r"[-_]", name)]
    return by_lower[found[0]] if found else None

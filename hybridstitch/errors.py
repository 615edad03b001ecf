"""How the library says that an input is wrong: one error that names every wrong field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

LONGEST_SHOWN = 300
"""Characters of a value in a message: a path or the words of a server must not end in the middle."""
LONGEST_SENT = 80
"""Characters of a value in the JSON form."""


@dataclass(frozen=True)
class Problem:
    """One wrong field: its dotted name, what was expected there, and what was found."""

    field: str
    expected: str
    got: Any

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {_short(self.got, LONGEST_SHOWN)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form; values that JSON has no form for (NaN, infinity, objects) become their short text."""
        return {**asdict(self), "got": self.got if _is_plain(self.got) else _short(self.got, LONGEST_SENT)}


class InvalidInput(ValueError):  # noqa: N818 - the name users read is what went wrong, not that it is an error
    """An input was refused. `problems` holds every wrong field, not only the first one."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def raise_if(problems: Sequence[Problem]) -> None:
    """Raise InvalidInput if there is any problem."""
    if problems:
        raise InvalidInput(problems)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_SENT
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53)


def _short(value: Any, longest: int) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."

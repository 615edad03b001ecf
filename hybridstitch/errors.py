"""The error for invalid input, which names every wrong field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LONGEST_SHOWN = 300
"""Characters of a value in a message, enough for a path or the message of a server."""
LONGEST_SENT = 80
"""Characters of a value in the JSON form."""


@dataclass(frozen=True)
class Problem:
    """One wrong field.

    Attributes:
        field: its dotted name.
        expected: what was expected there, in words.
        got: the value; None if there was none.
    """

    field: str
    expected: str
    got: Any

    def __str__(self) -> str:
        got = "nothing" if self.got is None else _short(self.got, LONGEST_SHOWN)
        return f"{self.field}: expected {self.expected}, got {got}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form with the value itself. A long value, or one without a JSON form, is replaced by a short text."""
        return {
            "field": self.field,
            "expected": self.expected,
            "got": self.got if _is_plain(self.got) else _short(self.got, LONGEST_SENT),
        }


class InvalidInput(ValueError):  # noqa: N818 - a public name
    """Invalid input. `problems` holds every wrong field, not only the first one."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


@contextmanager
def collected(problems: list[Problem]) -> Iterator[None]:
    """Add the problems of an InvalidInput that is raised inside the block to a list, and continue after the block."""
    try:
        yield
    except InvalidInput as error:
        problems.extend(error.problems)


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise InvalidInput if there is any problem."""
    if problems:
        raise InvalidInput(problems)


def _is_plain(value: Any) -> bool:
    """Whether a value is JSON already, and short."""
    if isinstance(value, str):
        return len(value) <= LONGEST_SENT
    try:
        return len(json.dumps(value, allow_nan=False)) <= LONGEST_SENT
    except (TypeError, ValueError, RecursionError):
        return False


def _short(value: Any, longest: int) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists nested as deeply
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= longest else text[: longest - 3] + "..."

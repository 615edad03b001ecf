"""Prompts from a text, CSV or JSON Lines file, or the built-in list that the embedded pair was not trained on."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from hybridstitch.errors import InvalidInput, Problem, raise_if

BUILT_IN = "heldout"
"""Names the list that belongs to the embedded pair, instead of a file."""
BUILT_IN_FILE = Path(__file__).resolve().parents[2] / "models" / "emoji" / "heldout_prompts.txt"
COLUMN = "prompt"
LONGEST = 2000
MOST = 100_000
SHOWN = 10


def read_prompts(source: str, count: int | None = None) -> list[str]:
    """The different prompts of a file in their order, or `count` of them, evenly spread.

    source: `.csv` with a column `prompt`; `.jsonl` whose lines are strings or objects with `prompt`; any other file:
    one prompt a line; or `heldout`. Raises InvalidInput that names the lines at fault.
    """
    path = BUILT_IN_FILE if source == BUILT_IN else Path(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            [Problem("prompts", f"{BUILT_IN}, or a .txt, .csv or .jsonl file in UTF-8", source)]
        ) from error
    read = {".csv": _csv, ".jsonl": _json_lines}.get(path.suffix.lower(), _lines)
    found, problems = _checked(read(text))
    raise_if(problems[:SHOWN])
    prompts = list(dict.fromkeys(found))
    if not prompts or len(prompts) > MOST:
        raise InvalidInput([Problem("prompts", f"1 to {MOST} different prompts in {source}", len(prompts))])
    wanted = len(prompts) if count is None else count
    if not 1 <= wanted <= len(prompts):
        raise InvalidInput([Problem("count", f"1 to {len(prompts)}, the different prompts in {source}", count)])
    return [prompts[index * len(prompts) // wanted] for index in range(wanted)]


Numbered = list[tuple[int, object]]
"""Number of the line, and the prompt or what stands in its place."""


def _checked(numbered: Numbered) -> tuple[list[str], list[Problem]]:
    prompts, problems = [], []
    for number, value in numbered:
        if isinstance(value, str) and 1 <= len(value.strip()) <= LONGEST:
            prompts.append(value.strip())
        else:
            problems.append(Problem(f"prompts line {number}", f"a prompt of 1 to {LONGEST} characters", value))
    return prompts, problems


def _lines(text: str) -> Numbered:
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _csv(text: str) -> Numbered:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if COLUMN not in (rows.fieldnames or ()):
        raise InvalidInput([Problem("prompts", f"a column {COLUMN!r} in the first line", rows.fieldnames)])
    try:
        return [(rows.line_num, row[COLUMN]) for row in rows]
    except csv.Error as error:
        raise InvalidInput([Problem(f"prompts line {rows.line_num}", "a row of a CSV file", str(error))]) from error


def _json_lines(text: str) -> Numbered:
    found: Numbered = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError:
                value = line
                raise InvalidInput([Problem(f"prompts line {number}", "JSON", line)]) from None
            found.append((number, value.get(COLUMN) if isinstance(value, dict) else value))
    return found

"""Reads files of prompts, for every command that takes `--prompts`.

A file is read by the ending of its name. What cannot be read is refused with the number of the line, so that no half of
a file and no markup of it is ever taken for a prompt.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridstitch.base.paths import HELD_OUT_PROMPTS
from hybridstitch.base.texts import text_problem
from hybridstitch.errors import InvalidInput, Problem, raise_problems

BUILT_IN = "heldout"
"""Names the list that belongs to the embedded pair, instead of a file."""
COLUMNS = ("prompt", "caption", "text")
"""Where the prompt stands in a table or an object: the first of these that is there, in capitals or not."""
KINDS = ".txt, .csv, .tsv, .json or .jsonl"
DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
COMMENT = "# "
"""Begins a line of a text file that is no prompt."""
MOST = 100_000
LARGEST = 2**28
"""Bytes of a file at most: a device such as /dev/zero has no end."""
SHOWN = 10
"""Problems that are named at once."""

Numbered = Iterator[tuple[str, object]]
"""Where a prompt stands, and what stands there."""


def read_prompts(source: str | Path, count: int | None = None, field: str = "prompts") -> list[str]:
    """The different prompts of a file in their order, or `count` of them, evenly spread.

    Args:
        source: Path of a file, or `heldout`. `.csv` and `.tsv`: a table whose first line names a column of `COLUMNS`.
            `.jsonl`: a string or an object on each line. `.json`: a list of them. Any other ending: a prompt on each
            line, without lines that are empty or begin with `# `.
        count: How many prompts to take, None for all.
        field: What problems are named after.

    Raises:
        InvalidInput: for a file that cannot be read, and for every line that holds no prompt.
    """
    path = HELD_OUT_PROMPTS if str(source) == BUILT_IN else Path(source)
    text = read_text(path, field, f"a {KINDS} file of prompts")
    found: dict[str, None] = {}
    problems: list[Problem] = []
    for where, value in _entries(path, text, field):
        problem = value if isinstance(value, Problem) else text_problem(where, value)
        if problem:
            problems.append(problem)
        else:
            found[str(value).strip()] = None
    raise_problems(problems[:SHOWN])
    prompts = list(found)
    if not 1 <= len(prompts) <= MOST:
        raise InvalidInput([Problem(field, f"1 to {MOST} different prompts in {path}", len(prompts))])
    wanted = len(prompts) if count is None else count
    if not 1 <= wanted <= len(prompts):
        raise InvalidInput([Problem("count", f"1 to {len(prompts)}, the different prompts in {path}", count)])
    return [prompts[index * len(prompts) // wanted] for index in range(wanted)]


def read_text(path: Path, field: str, expected: str) -> str:
    """The text of a file in UTF-8, without a byte order mark. Raises InvalidInput."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise InvalidInput([Problem(field, f"{expected} (no such file)", str(path))]) from None
    except OSError as error:
        raise InvalidInput(
            [Problem(field, f"{expected} ({(error.strerror or 'unreadable').lower()})", str(path))]
        ) from None
    except ValueError:  # a NUL or half a surrogate pair
        raise InvalidInput([Problem(field, expected, str(path))]) from None
    if len(content) > LARGEST:
        raise InvalidInput([Problem(field, f"{expected}, of at most {LARGEST} bytes", str(path))])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = f"byte {content[error.start]:#04x} (save the file as UTF-8)"
        raise InvalidInput([Problem(f"{field} line {line}", "text in UTF-8", wrong)]) from None


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers. Other separators, such as U+2028, do not end a line."""
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line.rstrip("\n")


def json_lines(text: str, field: str) -> Numbered:
    """What the lines of a JSON Lines file hold; a Problem in place of a line that is not JSON."""
    for number, line in numbered_lines(text):
        where = f"{field} line {number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError):
            yield where, Problem(where, "JSON", line)


def _entries(path: Path, text: str, field: str) -> Numbered:
    kind = path.suffix.lower()
    if kind in DELIMITERS:
        return _table(text, field, DELIMITERS[kind])
    if kind in (".jsonl", ".ndjson"):
        return ((where, _of_object(value)) for where, value in json_lines(text, field))
    return _json(text, field) if kind == ".json" else _plain(text, field)


def _plain(text: str, field: str) -> Numbered:
    if _is_json(text):
        raise InvalidInput([Problem(f"{field} line 1", "a prompt; a file of JSON is named .json or .jsonl", text[:80])])
    for number, line in numbered_lines(text):
        if not line.startswith(COMMENT):
            yield f"{field} line {number}", line


def _is_json(text: str) -> bool:
    """Whether a text begins with an object, or with a list of objects or strings."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, str | dict) for each in value))


def _json(text: str, field: str) -> Numbered:
    expected = "a JSON list of prompts, or of objects that hold one"
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput([Problem(f"{field} line {error.lineno}", expected, error.msg)]) from None
    except RecursionError:
        raise InvalidInput([Problem(field, expected, "too many brackets")]) from None
    except ValueError:
        raise InvalidInput([Problem(field, expected, "a number of thousands of digits")]) from None
    if not isinstance(values, list):
        raise InvalidInput([Problem(field, expected, values)])
    for number, value in enumerate(values, 1):
        yield f"{field} item {number}", _of_object(value)


def _of_object(value: Any) -> object:
    """The prompt of an object, and what is no object as it stands."""
    if not isinstance(value, dict):
        return value
    names = {name.strip().lower(): name for name in reversed(value)}
    return next((value[names[column]] for column in COLUMNS if column in names), value)


def _table(text: str, field: str, delimiters: str) -> Numbered:
    """The column of a table that holds prompts; every row must have as many cells as the first one."""
    head, line = next(iter(io.StringIO(text, newline="")), ""), 1
    try:
        heads = {each: next(csv.reader([head], delimiter=each), []) for each in delimiters}
        # The sign that splits the names into the most: a name with a sign of another kind in it stays whole.
        delimiter = max(delimiters, key=lambda each: (_of_names(heads[each]) is not None, len(heads[each])))
        column = _of_names(heads[delimiter])
        if column is None:
            expected = f"a first line that names a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
            raise InvalidInput([Problem(f"{field} line 1", expected, head.strip())])
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        width, line = len(next(rows)), rows.line_num + 1
        for row in rows:
            where = f"{field} line {line}"
            if len(row) == width:
                yield where, row[column]
            elif row:
                expected = f"{width} {'cell' if width == 1 else 'cells'}, as in the first line; "
                yield where, Problem(where, f"{expected}quote a prompt that holds {delimiter!r}", delimiter.join(row))
            line = rows.line_num + 1
    except csv.Error as error:
        raise InvalidInput([Problem(f"{field} line {line}", "a row of a table", str(error))]) from None


def _of_names(names: list[str]) -> int | None:
    """The number of the column that holds prompts, None without one."""
    known = [name.strip().lower() for name in names]
    return next((known.index(column) for column in COLUMNS if column in known), None)

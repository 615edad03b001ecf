"""Reads files of prompts, for every command that takes `--prompts`.

The suffix of the file decides its format. An error names the line, and no prompt is returned: neither half of a file
nor its markup is ever taken for a prompt.
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
"""Names the held-out prompts of the embedded pair, instead of a file."""
COLUMNS = ("prompt", "caption", "text")
"""Names of the column of a table, or the key of an object, that holds the prompt, in any case. The first one counts."""
KINDS = ".txt, .csv, .tsv, .json or .jsonl"
DELIMITERS = {".csv": ",;\t", ".tsv": "\t"}
COMMENT = "# "
"""Start of a comment line in a text file."""
MOST = 100_000
"""Largest number of prompts."""
LARGEST = 2**28
"""Largest size of a file in bytes. A device such as /dev/zero has no end."""
SHOWN = 10
"""Largest number of problems in an error."""

Numbered = Iterator[tuple[str, object]]
"""Position in a file, such as `prompts line 3`, and the value there."""


def read_prompts(source: str | Path, count: int | None = None, field: str = "prompts") -> list[str]:
    """Return the distinct prompts of a file in their order.

    Args:
        source: Path of a file, or `heldout`. `.csv` and `.tsv`: a table whose first line names a column of `COLUMNS`.
            `.jsonl`: a string or an object on each line. `.json`: a list of them. Any other suffix: a prompt on each
            line, except empty lines and those that begin with `# `.
        count: Number of prompts to return, evenly spread over the file. None returns all.
        field: Name of the option, for problems.

    Raises:
        InvalidInput: if the file cannot be read, or with each line that holds no prompt, up to `SHOWN`.
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
    """Return the text of a UTF-8 file, without a byte order mark.

    Args:
        path: Path of the file.
        field: Name of the option, for problems.
        expected: What the file must be, for problems.

    Raises:
        InvalidInput: if the file cannot be read, is larger than `LARGEST`, or is not UTF-8.
    """
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
    """Yield the lines that are not empty, with their numbers. Separators such as U+2028 do not end a line."""
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip():
            yield number, line.rstrip("\n")


def json_lines(text: str, field: str) -> Numbered:
    """Yield the values of a JSON Lines file, and a Problem for each line that is not JSON."""
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
    """Return whether a text begins with an object, or with a list of objects or strings."""
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
    """Return the prompt of an object, and any other value unchanged."""
    if not isinstance(value, dict):
        return value
    names = {name.strip().lower(): name for name in reversed(value)}
    return next((value[names[column]] for column in COLUMNS if column in names), value)


def _table(text: str, field: str, delimiters: str) -> Numbered:
    """Yield the prompts of a table. Every row must have as many cells as the first one."""
    head, line = next(iter(io.StringIO(text, newline="")), ""), 1
    try:
        heads = {each: next(csv.reader([head], delimiter=each), []) for each in delimiters}
        # The delimiter with the most names: a name that contains another delimiter stays whole.
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
    """Return the index of the column that holds prompts, None without one."""
    known = [name.strip().lower() for name in names]
    return next((known.index(column) for column in COLUMNS if column in known), None)

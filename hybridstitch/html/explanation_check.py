"""Validation of the answer of /explanations before it becomes a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from hybridstitch.errors import Problem

FORMATS = ("png", "jpeg", "webp")
TARGETS = ("mask", "region", "image")
METHODS = ("ablation", "integrated_gradients")
LARGEST_GRID = 1024
"""Tokens along a side of a picture: many more than any model has."""
MOST_SHOWN = 20

Check = Callable[[Any], bool]


def explanation_problems(answer: Any) -> list[Problem]:
    """Every field that a page needs and that differs from docs/interface.md."""
    found = _Found()
    if not found.check("answer", answer, "an object", _is_object):
        return found.problems
    request = found.part(answer, "request")
    prompt = found.at(request, "request.prompt", "text", _is_text)
    kind = found.at(request, "request.output_format", f"one of: {', '.join(FORMATS)}", lambda each: each in FORMATS)
    _check_report(found, answer)
    target = found.at(answer, "target", f"one of: {', '.join(TARGETS)}", lambda each: _is_one_of(each, TARGETS))
    found.at(answer, "method", f"one of: {', '.join(METHODS)}", lambda each: _is_one_of(each, METHODS))
    found.at(answer, "baseline", "text", _is_text)
    found.at(answer, "forwards", "an integer, at least 0", _is_count)
    found.at(answer, "steps_explained", "a list of steps", lambda each: bool(each) and _all(each, _is_count))
    found.at(answer, "warnings", "a list of texts", lambda each: _all(each, _is_text))
    if "convergence_delta" in answer:
        found.at(answer, "convergence_delta", "a number", _is_number)
    grid = _grid(answer)
    _check_pictures(found, answer, kind)
    _check_words(found, answer, prompt, grid)
    _check_mask(found, answer, target, grid)
    return found.problems[:MOST_SHOWN]


class _Found:
    """Collects the problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def check(self, field: str, value: Any, expected: str, is_right: Check) -> bool:
        if is_right(value):
            return True
        self.problems.append(Problem(field, expected, value))
        return False

    def at(self, owner: Any, field: str, expected: str, is_right: Check) -> Any:
        """The value at the last name of a dotted field, None if it is wrong. An owner that is wrong was named."""
        if not isinstance(owner, dict):
            return None
        value = owner.get(field.rpartition(".")[2])
        return value if self.check(field, value, expected, is_right) else None

    def part(self, owner: Any, field: str) -> Any:
        return self.at(owner, field, "an object", _is_object)


def _check_report(found: _Found, answer: dict[str, Any]) -> None:
    report = found.part(answer, "report")
    found.at(report, "report.large_token_share", "a number", _is_number)
    found.at(report, "report.timing_ms", "an object", _is_object)
    found.at(found.part(report, "report.recipe"), "report.recipe.name", "text", _is_text)
    mask = found.part(report, "report.mask")
    found.at(mask, "report.mask.grid", f"two integers, 1 to {LARGEST_GRID}", _is_grid)
    found.at(mask, "report.mask.share_by_step", "a list of numbers", lambda each: _all(each, _is_number))


def _check_pictures(found: _Found, answer: dict[str, Any], kind: str | None) -> None:
    data = found.at(answer, "data", "a list of pictures", lambda each: bool(each) and _all(each, _is_object))
    if not data:
        return
    found.at(data[0], "data[0].seed", "an integer", _is_integer)
    found.at(data[0], "data[0].b64_json", f"a {kind or 'picture'} as base64", lambda each: _is_picture(each, kind))


def _check_words(found: _Found, answer: dict[str, Any], prompt: str | None, grid: Sequence[int] | None) -> None:
    words = found.at(answer, "words", "a list of words", lambda each: bool(each) and _all(each, _is_object))
    last = 0
    for number, word in enumerate(words or ()):
        name = f"words[{number}]"
        found.at(word, f"{name}.text", "text", _is_text)
        found.at(word, f"{name}.score", "a number", _is_number)
        found.at(word, f"{name}.heat_max", "a number, at least 0", lambda each: _is_number(each) and each >= 0)
        start = found.at(word, f"{name}.start", f"an integer, at least {last}", _is_from(last))
        last = start or last
        end = found.at(word, f"{name}.end", f"an integer, at least {last}", _is_from(last, prompt))
        last = end or last
        if grid:
            rows, columns = grid
            expected = f"a grey PNG of {columns}x{rows} as base64"
            found.at(word, f"{name}.heatmap_png_b64", expected, _is_heat((columns, rows)))


def _check_mask(found: _Found, answer: dict[str, Any], target: str | None, grid: Sequence[int] | None) -> None:
    expected = "an object, or null with target image"
    if "mask" in answer and (answer["mask"] is None or not grid):
        return
    mask = answer.get("mask")
    if not grid or not found.check("mask", mask, expected, lambda each: _is_object(each) and target != "image"):
        return
    found.at(mask, "mask.grid", f"{list(grid)}, as in the report", lambda each: each == list(grid))
    most = grid[0] * grid[1]
    found.at(mask, "mask.tokens", f"integers, 0 to {most - 1}", lambda each: _all(each, _is_below(most)))


def _grid(answer: dict[str, Any]) -> Sequence[int] | None:
    report = answer.get("report")
    mask = report.get("mask") if isinstance(report, dict) else None
    grid = mask.get("grid") if isinstance(mask, dict) else None
    return grid if _is_grid(grid) else None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_one_of(value: Any, names: Any) -> bool:
    return isinstance(value, str) and value in names


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_grid(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _all(value, lambda each: _is_count(each) and 1 <= each <= LARGEST_GRID)
    )


def _is_from(low: int, text: str | None = None) -> Check:
    return lambda value: type(value) is int and low <= value and (text is None or value <= len(text))


def _is_below(most: int) -> Check:
    return lambda value: type(value) is int and 0 <= value < most


def _all(values: Any, is_right: Check) -> bool:
    return isinstance(values, list) and all(map(is_right, values))


def _is_picture(value: Any, kind: str | None) -> bool:
    picture = _opened(value)
    return picture is not None and (kind is None or picture.format == kind.upper())


def _is_heat(size: tuple[int, int]) -> Check:
    def is_right(value: Any) -> bool:
        picture = _opened(value)
        return (
            picture is not None
            and (picture.format, picture.mode, picture.size) == ("PNG", "L", size)
            and _loads(picture)
        )

    return is_right


def _opened(value: Any) -> Image.Image | None:
    """The picture in strict base64; None if there is none. Its pixels are not read yet."""
    if not isinstance(value, str):
        return None
    try:
        return Image.open(io.BytesIO(base64.b64decode(value, validate=True)))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _loads(picture: Image.Image) -> bool:
    try:
        picture.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True

"""The form of the documentation: short lines and paragraphs, links that lead somewhere, one vocabulary.

Docstrings and comments of the code have the same vocabulary.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridstitch.base.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
COLUMNS = 120
CODE = [path for folder in ("hybridstitch", "handler", "training") for path in sorted((ROOT / folder).rglob("*.py"))]
SENTENCES = 3
"""At most so many in a paragraph of the README."""
GLOSSARY = (
    *("step", "dense step", "hybrid step", "share", "token", "token-step", "forward", "pair", "large model"),
    *("small model", "plan", "mask", "fill", "recipe", "stitched", "speed dial", "fidelity", "quality"),
    *("reference picture", "held-out", "calibration"),
)
BANNED = {
    r"\b(says?|said|tells?|told)\b": "returns, reports, states",
    r"\bask(s|ed|ing)? for\b": "requests, requires",
    r"\b(draws?|drew|drawn)\b": "generates, samples",
    r"\bstands? still\b": "hangs",
    r"\banew\b": "again",
    r"\bof (its|their|your|our|his|her) own\b": "its own X, a separate X",
    r"\bso many\b": "this many, a number",
    r"\bworth (its|their) cost\b": "state what is gained and what it costs",
}
"""Phrases that a reader has to decode, each with what to write instead."""
ALLOWED = r"`[^`]*`|^ *\w+(, \w+)*:|\b(tell|told) apart\b"
"""Where these words are right: code, names of parameters in front of their meaning, and "tell apart"."""


def prose(text: str) -> str:
    """The page without code blocks and tables; every line keeps its place."""
    text = re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def banned(text: str) -> dict[str, str]:
    """The banned phrases in a text, each with what to write instead."""
    return {found[0]: better for each, better in BANNED.items() for found in re.finditer(each, text, re.IGNORECASE)}


def explanations(source: str) -> Iterator[tuple[int, str]]:
    """The docstrings and comments of a module, each with its line. Docstrings may follow attributes, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_lines_are_short(page: Path) -> None:
    lines = enumerate(prose(page.read_text(encoding="utf-8")).splitlines(), 1)
    assert {number: len(line) for number, line in lines if len(line) > COLUMNS} == {}


def test_paragraphs_of_the_readme_are_short() -> None:
    paragraphs = re.split(r"\n\s*\n", prose(README.read_text(encoding="utf-8")))
    without_links = (re.sub(r"`[^`]*`|\]\([^)]*\)", "x", each) for each in paragraphs)
    long = [each for each in without_links if len(re.findall(r"[.!?](?=\W*(\s|$))", each)) > SENTENCES]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    folders = [ROOT, *(ROOT / "hybridstitch" / each for each in (".", "serving"))]
    named = set(re.findall(r"`([\w./-]+/[\w-]+\.py)`", page.read_text(encoding="utf-8")))
    assert {path for path in named if not any((folder / path).exists() for folder in folders)} == set()


def test_the_glossary_is_complete() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = {word for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for word in row.split(", ")}
    assert set(GLOSSARY) - entries == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_words_are_those_of_the_field(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "`", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S))
    assert banned(text) == {}


def test_docstrings_and_comments_are_found() -> None:
    source = '"""A."""\nx = "message"\n"""Of x."""\n\ndef f():\n    """B."""\n    return x  # c\n'
    assert sorted(explanations(source)) == [(1, "A."), (3, "Of x."), (6, "B."), (7, "# c")]


def test_words_of_docstrings_and_comments_are_those_of_the_field() -> None:
    found = [
        (name(path), line, phrases)
        for path in CODE
        for line, text in explanations(path.read_text(encoding="utf-8"))
        if (phrases := banned(re.sub(ALLOWED, "", text, flags=re.MULTILINE)))
    ]
    assert found == []

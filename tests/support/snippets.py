"""The fenced blocks of the documentation, and how a reader would run them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "training/README.md")),
]
RUN = ("bash", "python", "yaml")
SHOWN = ("text", "mermaid")
"""Output and diagrams, which nobody runs."""


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its page, its first line there, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The file that the block is the content of, named by a comment in its first line."""
        match = re.match(r"# ([\w.-]+\.(?:py|yaml))\n", self.text)
        return match[1] if match else None


def snippets() -> list[Snippet]:
    """Every block of every page, in the order of reading."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 2
            found.append(Snippet(str(page.relative_to(ROOT)), line, match[1], match[2]))
    return found


def commands(text: str) -> list[str]:
    """The commands of a shell block, continuation lines joined, without those that are only a comment."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def words(command: str, variables: dict[str, str]) -> list[str]:
    """A simple command as a shell would split it: quotes, comments and `$NAME`."""
    return shlex.split(Template(command).safe_substitute(variables), comments=True)

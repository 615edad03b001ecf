"""A parsed HTML page, and what every page of a comparison must hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """Tags, the values of attributes, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def check_page(out: Path) -> Page:
    text = (out / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith("data:image/webp") for value in sources)
    assert not re.search(r"url\(|@import|http-equiv=.refresh", text)
    assert all(name in dict(page.attributes) for name in ("lang", "aria-label", "alt"))
    strips = re.findall(r'<div class="strip of(\d)">(.*?)</figure>', text)
    assert strips
    for part in strips:
        assert part[1].count("<img") == part[1].count("<span>") == int(part[0])  # every picture is labelled
    wide = [each for each in text.split('<div class="scroll"')[1:] if each.split("</thead>")[0].count("<th") > 3]
    assert text.count("Scroll sideways") == len(wide)
    return page

"""JSON lines and settings of a run that can be interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridstitch.base.journal import SETTINGS, append_entries, read_entries, read_settings
from hybridstitch.errors import InvalidInput


def test_entries_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert list(read_entries(path)) == []
    append_entries(path, {"a": "ä"}, ["b", 1])
    path.write_text(path.read_text() + '\n{"c": [1, 2')
    append_entries(path, {"d": None})
    assert list(read_entries(path)) == [{"a": "ä"}, ["b", 1], {"d": None}]


@pytest.mark.parametrize("content", ["{", "[]", '{"other": 1}', "[" * 5000])
def test_settings_of_another_kind_are_refused(tmp_path: Path, content: str) -> None:
    assert read_settings(tmp_path, "out", "a folder", lambda _: True) is None
    (tmp_path / SETTINGS).write_text(content)
    with pytest.raises(InvalidInput, match=f"out: expected a folder: its {SETTINGS} "):
        read_settings(tmp_path, "out", "a folder", lambda each: "mine" in each)

"""Files of prompts: every command reads all prompts of a file, or refuses it by the number of the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridstitch.base.prompt_files import read_prompts
from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput

PROMPTS = ["one", "two", "three, with a comma"]
LISTED = [{"Prompt": "one", "tag": "x"}, "two", {"caption": "three, with a comma"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "# what we sell\none\n\n two \none\nthree, with a comma\n"),
        ("p.TXT", "\ufeffone\r\ntwo\r\nthree, with a comma\r\n"),
        ("p", "one\rtwo\rthree, with a comma"),
        ("p.csv", 'id,prompt\n1,one\n2,two\n3,one\n4,"three, with a comma"\n'),
        ("p.csv", "\ufeffTag;Caption\r\nx;one\r\nx;two\r\n\r\nx;three, with a comma\r\n"),
        ("p.csv", 'prompt\none\ntwo\n"three, with a comma"\n'),
        ("p.csv", 'text,Prompt\nwrong,one\nwrong,two\nwrong,"three, with a comma"\n'),
        ("p.tsv", "id\tPrompt\n1\tone\n2\ttwo\n3\tthree, with a comma\n"),
        ("p.json", json.dumps(LISTED, indent=1)),
        ("p.jsonl", "\ufeff" + "\r\n\r\n".join(map(json.dumps, LISTED))),
    ],
)
def test_every_prompt_of_a_file_is_read(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_bytes(content.encode())
    assert read_prompts(tmp_path / name) == PROMPTS
    assert read_prompts(str(tmp_path / name), 2) == ["one", "two"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029"])
@pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl", "p.json"])
def test_separators_within_a_line_do_not_end_it(tmp_path: Path, name: str, separator: str):
    prompt = f"one{separator}and the same"
    lines = {"p.txt": prompt, "p.csv": f"prompt\n{prompt}", "p.jsonl": f'"{prompt}"', "p.json": f'["{prompt}"]'}
    (tmp_path / name).write_text(lines[name], encoding="utf-8")
    assert read_prompts(tmp_path / name) == [prompt]


WRONG = [
    ("p.csv", 'prompt,"x\none,two\n', "prompts line 1"),
    ("p.csv", f"prompt{'x' * 2**18}\none\n", "prompts line 1"),
    ("p.json", f"[{'9' * 5000}]", "prompts"),
    ("p.txt", "", "prompts"),
    ("p.txt", "one\n" + "x" * 2001, "prompts line 2"),
    ("p.txt", "one\n\u200b\u200b\n", "prompts line 2"),
    ("p.txt", "one\ntwo\x85three\x0bfour\n", "prompts line 2"),
    ("p.txt", '{"tag": "x", "prompt": "one"}\n', "prompts line 1"),
    ("p.txt", '[\n "one",\n "two"\n]\n', "prompts line 1"),
    ("p.txt", b"one\ntwo\ncaf\xe9\n", "prompts line 3"),
    ("p.txt", b"\xff\xfeo\x00n\x00e\x00", "prompts line 1"),
    ("p.csv", "name\none\n", "prompts line 1"),
    ("p.csv", 'prompt,"tag"s\none,x\n', "prompts line 1"),
    ("p.csv", "prompt," + "x" * 200_000 + "\none,x\n", "prompts line 1"),
    ("p.csv", "id,prompt\n1,one\n2\n", "prompts line 3"),
    ("p.csv", "id,prompt\n1,one\n2,\n", "prompts line 3"),
    ("p.csv", "prompt\na cat, a dog\n", "prompts line 2"),
    ("p.csv", 'id,prompt\n1,"one\n2,two\n', "prompts line 2"),
    ("p.tsv", "id\tprompt\n1\tone\n2\ttwo\tthree\n", "prompts line 3"),
    ("p.json", '["one",\n"two"\n', "prompts line 3"),
    ("p.json", '{"prompt": "one"}', "prompts"),
    ("p.json", '["one", 2]', "prompts item 2"),
    ("p.json", "[" * 5000, "prompts"),
    ("p.jsonl", '"one"\n{"prompt": 3}\n', "prompts line 2"),
    ("p.jsonl", '"one"\n{"name": "x"}\n', "prompts line 2"),
    ("p.jsonl", '"one"\n\n{\n', "prompts line 3"),
]


@pytest.mark.parametrize(("name", "content", "field"), WRONG)
def test_a_line_without_a_prompt_is_refused_by_its_number(tmp_path: Path, name: str, content: str | bytes, field: str):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput) as error:
        read_prompts(tmp_path / name)
    assert [problem.field for problem in error.value.problems] == [field]


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b", "\ud800", "x" * 300])
def test_an_endless_or_impossible_file_is_refused(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hybridstitch.base.prompt_files.LARGEST", 2**20)
    with pytest.raises(InvalidInput, match=r"prompts: expected a \.txt"):
        read_prompts(path)


def test_every_wrong_line_is_named(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('"one"\n3\n{\n{"text": ""}\n')
    with pytest.raises(InvalidInput) as error:
        read_prompts(tmp_path / "p.jsonl")
    assert [problem.field.split()[-1] for problem in error.value.problems] == ["2", "3", "4"]


@pytest.mark.parametrize("command", ["compare", "bench", "tune"])
def test_every_command_reads_prompts_alike(tiny: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture):
    sides = ["--a", str(tiny), "--b", str(tiny)] if command == "compare" else ["--pair", str(tiny)]
    given = [command, *sides, "--out", str(tmp_path / "out"), "--prompts"]
    (tmp_path / "p.jsonl").write_text('{"Prompt": "one"}\n{"tag": "no prompt"}\n')
    assert main([*given, str(tmp_path / "p.jsonl")]) == 2
    message = capsys.readouterr().err
    assert "prompts line 2" in message
    assert "line 1" not in message
    assert main([*given, str(tmp_path / "none.csv")]) == 2
    assert f"(no such file), got {str(tmp_path / 'none.csv')!r}" in capsys.readouterr().err
    assert main([*given, str(tmp_path)]) == 2
    assert "(is a directory)" in capsys.readouterr().err
    if command != "tune":
        (tmp_path / "two.csv").write_text("id;prompt\n1;one\n2;two\n")
        assert main([*given, str(tmp_path / "two.csv"), "--count", "3"]) == 2
        assert "count: expected 1 to 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_built_in_list_is_the_pairs_own(emoji: Path):
    held_out = (emoji / "heldout_prompts.txt").read_text().splitlines()
    assert read_prompts("heldout") == list(dict.fromkeys(held_out))
    assert len(read_prompts("heldout", 32)) == 32
    with pytest.raises(InvalidInput, match="count"):
        read_prompts("heldout", 10_000)

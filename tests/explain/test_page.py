"""The page of an explanation and the command that writes it: whole, self-contained, readable, nothing unescaped."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput
from hybridstitch.html.explanation import command, render
from hybridstitch.html.explanation_check import explanation_problems
from tests.support.handlers import STITCHED
from tests.support.html_page import Page
from tests.support.http_server import fixed, serving

HOSTILE = '<i>"&'
QUICK = ["--num-inference-steps", "4", "--steps-explained", "1", "--seed", "1", "--recipe", json.dumps(STITCHED)]


def explained(tiny: Path, out: Path, capsys: pytest.CaptureFixture, prompt: str, *more: str) -> dict[str, Any]:
    """The answer of the command, which has written its page."""
    capsys.readouterr()
    assert main(["explain", prompt, "--pair", str(tiny), "--out", str(out), "--json", *QUICK, *more]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def page_of(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> Any:
    def made(prompt: str, *more: str) -> tuple[dict[str, Any], str]:
        answer = explained(tiny, tmp_path / "why.html", capsys, prompt, *more)
        return answer, (tmp_path / "why.html").read_text()

    return made


@pytest.mark.parametrize("target", ["mask", "region", "image"])
def test_the_page_is_whole_and_needs_nothing_else(page_of: Any, target: str) -> None:
    more = ["--region", "0,0,16,16"] if target == "region" else []
    answer, text = page_of("a b", "--target", target, *more)
    page = Page(text)
    assert "script" not in page.tags
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith("data:image/png;base64,") or value == "#picture" for value in sources)
    assert not re.search(r"url\(|@import|http-equiv=.refresh", text)
    assert sources.count("#picture") == (2 if target == "image" else 3) + len(answer["words"])
    assert sum(value.startswith("data:") for value in sources) == 2 + len(answer["words"])
    assert page.tags.count("mark") == 2
    assert page.tags.count("path") == (0 if target == "image" else 2 + 2 * len(answer["words"]))
    assert text == render(answer)


@pytest.mark.parametrize("count", [1, 2])
def test_a_tile_names_the_steps_that_were_explained(page_of: Any, count: int) -> None:
    answer, text = page_of("a b", "--recipe", "large", "--target", "image", "--steps-explained", str(count))
    steps = ", ".join(str(step + 1) for step in answer["steps_explained"])
    assert f">{'step' if count == 1 else 'steps'} {steps} of 4<" in text


def test_every_word_is_there_with_its_score(page_of: Any) -> None:
    answer, text = page_of("a b")
    page = Page(text)
    for word in answer["words"]:
        assert ("title", f"{word['text']}: {word['score']:.3g}") in page.attributes
        assert f"{word['score']:.3g}" in page.words
    strongest = max(answer["words"], key=lambda word: abs(word["score"]))
    assert ("style", "--share: 100%") in page.attributes
    assert f"“{strongest['text']}” " in page.words


def test_the_steps_explained_are_named_once(page_of: Any) -> None:
    _, text = page_of("a b")
    assert re.search(r"Steps explained</dt><dd><b>1</b><small>step \d of 4</small>", text)


def test_what_a_client_wrote_is_never_markup(page_of: Any) -> None:
    answer, text = page_of(f"a {HOSTILE} b")
    page = Page(text)
    assert "i" not in page.tags
    assert HOSTILE not in text
    heading = re.search(r'<h1 class="prompt">(.*?)</h1>', text)
    assert heading
    assert Page(heading[1]).words == answer["request"]["prompt"]


def test_the_command_on_the_page_makes_it_again(
    page_of: Any, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    answer, text = page_of("a 'b", "--negative-prompt", "c", "--target", "image")
    assert command(answer) in Page(text).words
    arguments = shlex.split(command(answer))[1:]
    assert main([*arguments, "--pair", str(tiny), "--out", str(tmp_path / "again.html"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["words"], again["data"]) == (answer["words"], answer["data"])


def test_words_can_be_read_on_their_ground_in_light_and_dark() -> None:
    styles = [
        files("hybridstitch.html").joinpath("templates", name).read_text() for name in ("page.css", "explanation.css")
    ]
    light, dark = ({}, {})
    for style in styles:
        for block, found in zip(re.findall(r":root \{(.*?)\}", style, re.S), (light, dark), strict=True):
            found.update(re.findall(r"--(\w+): (#[0-9a-f]+)", block))
    for colours in (light, dark):
        for ground in ("for", "against", "card"):
            assert contrast(colours["ink"], colours[ground]) >= 4.5


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""
    low, high = sorted(luminance(each) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_command_prints_words_with_bars(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "why.html"
    assert main(["explain", "a b", "--pair", str(tiny), "--out", str(out), *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["a", "b"]
    assert any("#" * 24 in line for line in lines[:2])
    assert lines[-1] == str(out)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--target", "why", "--method", "magic"], 2, ["error: --target", "error: --method"]),
        (["--target", "region"], 2, ["error: --region"]),
        (["--out", "why.png"], 2, ["error: --out"]),
        (["--deadline-ms", "1"], 1, ["deadline_ms"]),
    ],
)
def test_what_is_wrong_is_said_and_the_exit_code_tells_it(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    code: int,
    said: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "a b", "--pair", str(tiny), *QUICK, *arguments]) == code
    errors = capsys.readouterr().err
    assert all(each in errors for each in said)
    assert not list(tmp_path.iterdir())


def test_asking_a_server_needs_no_model_in_this_process(tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("torch", "diffusers", "transformers", "captum"):
    sys.modules[name] = None  # an import of it fails
from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput
code = main(["explain", "a b", "--url", "http://127.0.0.1:9", "--out", {str(tmp_path / "why.html")!r}])
sys.exit(3 if code == 1 else code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr


TAG = "<i>x</i>"
PLACES = [
    *("request", "request.prompt", "request.output_format", "data", "data.0", "data.0.seed", "data.0.b64_json"),
    *("words", "words.0", "words.0.text", "words.0.score", "words.0.heat_max", "words.0.start", "words.0.end"),
    *("words.0.heatmap_png_b64", "report", "report.mask", "report.mask.grid", "report.mask.grid.0"),
    *("report.mask.share_by_step", "report.recipe", "report.recipe.name", "report.large_token_share"),
    *("report.timing_ms", "mask", "mask.grid", "mask.tokens", "mask.tokens.0", "target", "method", "baseline"),
    *("steps_explained", "steps_explained.0", "forwards", "warnings"),
]
ODD: list[Any] = [TAG, None, -1, 1.5, 10**9, [], {}, [TAG], {"a": TAG}, True, float("nan"), "QUJD", [1, 2, 3], "image"]
ABSENT = object()


def changed(answer: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy of an answer with another value at a place, or without it."""
    copied = json.loads(json.dumps(answer))
    *path, last = (int(name) if name.isdigit() else name for name in place.split("."))
    owner = copied
    for name in path:
        owner = owner[name]
    if value is ABSENT:
        del owner[last]
    else:
        owner[last] = value
    return copied


def test_an_answer_of_any_server_makes_a_clean_page_or_one_error(page_of: Any) -> None:
    answer, _ = page_of("a b", "--target", "mask")
    refused = 0
    for place in PLACES:
        for value in (*ODD, ABSENT):
            odd = changed(answer, place, value)
            problems = explanation_problems(odd)
            if not problems:
                assert "i" not in Page(render(odd)).tags, (place, value)
                continue
            refused += 1
            top = re.split(r"[.\[]", problems[0].field)[0]
            assert top in place or place.startswith(("report.mask", "request", "target")), (place, value)
            assert len(problems) <= 20
            with pytest.raises(InvalidInput):
                render(odd)
    assert refused > 300


def test_every_wrong_field_of_an_answer_is_named(page_of: Any) -> None:
    answer, _ = page_of("a b")
    for place in ("words.0.score", "data.0.seed", "report.mask.share_by_step", "method"):
        answer = changed(answer, place, TAG)
    with pytest.raises(InvalidInput) as refused:
        render(answer)
    named = {problem.field for problem in refused.value.problems}
    assert named == {"words[0].score", "data[0].seed", "report.mask.share_by_step", "method"}


@pytest.mark.parametrize("place", ["request.output_format", "data.0.b64_json", "forwards", "words.0.text"])
def test_a_hostile_server_gets_no_page_from_the_command(
    page_of: Any, place: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    answer, _ = page_of("a b")
    capsys.readouterr()
    out = tmp_path / "hostile.html"
    with serving(fixed(200, changed(answer, place, [TAG]))) as url:
        assert main(["explain", "a b", "--url", url, "--out", str(out)]) == 1
    assert not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.sub(r"\.(\d+)", r"[\1]", place) in line

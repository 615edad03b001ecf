"""One rule decides what a valid prompt is, wherever a prompt is read."""

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.texts import LONGEST, text_problem
from hybridstitch.errors import InvalidInput
from hybridstitch.model.pair import SizeLimits
from hybridstitch.wire.request import parse_request

LIMITS = SizeLimits(multiple_of=16, minimum=64, maximum=256, default=(128, 64))
BLANK = [
    "",
    " ",
    "\t\n",
    "\u200b",
    "\ufeff",
    "\u00a0\u3000",
    "\u200d\u2060",
    "\u00ad",
    "\u3164",
    "\U000e0041",
    " \ufe0f ",
]
TEXTS = ["a", " a ", "\u200ba", "红苹果", "\U0001f34e", "a\nb", ".", "x" * LONGEST]


@pytest.mark.parametrize("text", [*BLANK, "x" * (LONGEST + 1), "a\x00", "a\ud83c", None, 5, ["a"]])
def test_what_shows_nothing_is_no_prompt_anywhere(text: object) -> None:
    problem = text_problem("prompt", text)
    assert problem is not None
    assert problem.expected == (
        "a string of 1 to 2000 characters, at least one of them visible, "
        "without control characters and unpaired surrogates"
    )
    with pytest.raises(InvalidInput) as refused:
        parse_request({"prompt": text}, {}, LIMITS)
    assert refused.value.problems == (problem,)


@pytest.mark.parametrize("text", TEXTS)
def test_what_shows_something_is_a_prompt(text: str) -> None:
    assert text_problem("prompt", text) is None


@pytest.mark.parametrize("text", [*(text for text in BLANK), *TEXTS])
def test_a_text_that_may_be_missing_may_be_blank(text: str) -> None:
    assert text_problem("negative_prompt", text, required=False) is None


def test_no_white_space_and_no_ignorable_character_is_visible() -> None:
    kinds = ("Zs", "Zl", "Zp", "Cc", "Cs")
    invisible = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in kinds]
    assert all(text_problem("prompt", character) for character in invisible)


def test_a_long_blank_text_is_refused_at_once() -> None:
    started = time.perf_counter()
    assert text_problem("prompt", " " * LONGEST)
    assert time.perf_counter() - started < 0.2


def test_the_rule_needs_no_torch() -> None:
    code = "import sys, hybridstitch.base.texts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_command_refuses_a_blank_prompt(emoji: Path, tmp_path: Path) -> None:
    from hybridstitch.cli.main import main

    assert main(["generate", " \u200b", "--pair", str(emoji), "--out", str(tmp_path / "x.png")]) == 2
    assert main(["explain", " ", "--pair", str(emoji), "--out", str(tmp_path / "x.html")]) == 2
    assert not list(tmp_path.iterdir())


def test_the_pipeline_refuses_a_blank_prompt(tiny_pipe: HybridStitchPipeline) -> None:
    with pytest.raises(InvalidInput) as refused:
        tiny_pipe(["a red apple", " \u200b"], num_inference_steps=1)
    (problem,) = refused.value.problems
    assert problem == text_problem("prompt[1]", " \u200b")

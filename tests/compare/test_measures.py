"""Prompts from files, and regions and seams on pictures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hybridstitch.compare.metrics import SEAM_PIXELS, Measures, mask_of, seam, step_across
from hybridstitch.compare.prompts import read_prompts
from hybridstitch.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "one\n\n two \none\nthree, with a comma\n"),
        ("p.csv", 'id,prompt\n1,one\n2,two\n3,one\n4,"three, with a comma"\n'),
        ("p.jsonl", '"one"\n{"prompt": "two", "id": 7}\n\n{"prompt": "one"}\n{"prompt": "three, with a comma"}\n'),
        ("p.TXT", "\ufeffone\r\ntwo\r\nthree, with a comma\r\n"),
    ],
)
def test_prompts_of_every_kind_of_file(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_prompts(str(tmp_path / name)) == ["one", "two", "three, with a comma"]
    assert read_prompts(str(tmp_path / name), 2) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("p.txt", "", "prompts"),
        ("p.txt", "x" * 2001, "prompts line 1"),
        ("p.csv", "text\none\n", "prompts"),
        ("p.csv", "id,prompt\n1,one\n2\n", "prompts line 3"),
        ("p.jsonl", '"one"\n{"prompt": 3}\n', "prompts line 2"),
        ("p.jsonl", '"one"\n{\n', "prompts line 2"),
    ],
)
def test_prompts_that_are_none(tmp_path: Path, name: str, content: str, field: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInput) as error:
        read_prompts(str(tmp_path / name))
    assert [problem.field for problem in error.value.problems] == [field]


def test_the_built_in_list_is_the_pairs_own(emoji: Path):
    held_out = (emoji / "heldout_prompts.txt").read_text().splitlines()
    assert read_prompts("heldout") == list(dict.fromkeys(held_out))
    assert len(read_prompts("heldout", 32)) == 32
    with pytest.raises(InvalidInput, match="count"):
        read_prompts("heldout", 10_000)


def test_regions_of_a_mask():
    grid = [[0, 0, 3, 3]] * 4
    mask = mask_of({"mask": {"large_steps": [grid]}}, (64, 64))
    assert mask is not None
    assert mask[:, 32:].all()
    assert not mask[:, :32].any()
    along = seam(mask)
    assert along[:, 32 - SEAM_PIXELS : 32 + SEAM_PIXELS].all()
    assert along.sum() == 64 * 2 * SEAM_PIXELS
    reference = np.full((64, 64, 3), 0.5)
    picture = reference.copy()
    picture[:, 32:] += 0.1
    found = Measures().fidelity(picture, reference, mask)
    assert found["inside_psnr_db"] == pytest.approx(20)
    assert found["outside_psnr_db"] == 60
    assert found["seam_psnr_db"] == pytest.approx(20 + 10 * np.log10(2))
    assert found["seam_contrast"] == pytest.approx(0.1)
    assert np.isnan(step_across(picture, np.ones((64, 64), bool)))
    assert set(Measures().fidelity(picture, reference, None)) == {"psnr_db", "ssim"}


@pytest.mark.parametrize(
    "report", [None, {}, {"mask": 3}, {"mask": {"large_steps": [["x"]]}}, {"mask": {"large_steps": [[[1]]]}}]
)
def test_reports_without_a_usable_mask(report):
    assert mask_of(report, (64, 64)) is None

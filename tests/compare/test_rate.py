"""Judging pairs in a browser: hidden order, on disk first, resumable, and in the report."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from hybridstitch.cli.main import main
from hybridstitch.compare.comparison import Comparison
from hybridstitch.compare.review.preference import JUDGEMENTS, left_side
from hybridstitch.compare.review.server import Rating
from hybridstitch.compare.run.folder import Folder
from hybridstitch.errors import InvalidInput


@pytest.fixture
def compared(tiny: Path, tmp_path: Path) -> Path:
    """The folder of a small comparison, one prompt of which is markup."""
    (tmp_path / "p.txt").write_text("<b>one</b>\ntwo\nthree\n")
    a, b = (f"{tiny}#recipe={recipe}&num_inference_steps=2" for recipe in ("large", "small"))
    where = ["--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "out")]
    assert main(["compare", "--a", a, "--b", b, *where]) == 1
    return tmp_path / "out"


def opened(folder: Path) -> Rating:
    return Rating(Comparison.from_dict(Folder(folder).settings), Folder(folder))


def test_a_person_judges_pairs_and_the_report_says_so(compared: Path, capsys: pytest.CaptureFixture):
    preferred = []
    with opened(compared) as rating:
        assert rating.url.startswith("http://127.0.0.1:")
        for number in range(4):
            page = requests.get(rating.url, timeout=9).text
            assert "<b>one</b>" not in page
            assert f"{number + 1} of 6" in page
            assert not re.search("large|small|recipe", page.partition("</style>")[2])
            pair = int(re.search(r'name="pair" value="(\d+)"', page)[1])
            left, right = (requests.get(f"{rating.url}{pair}/{place}", timeout=9) for place in ("left", "right"))
            assert left.content != right.content
            assert not Image.open(io.BytesIO(left.content)).info
            cell = rating.order[pair]
            shown = np.asarray(Image.open(io.BytesIO(left.content)))
            side = left_side(cell)
            assert np.array_equal(shown, np.asarray(Image.open(compared / rating.pictures[cell][side]).convert("RGB")))
            choice = ("left", "right", "tie", "left")[number]
            sent = requests.post(f"{rating.url}judge", data={"pair": pair, "choice": choice}, timeout=9)
            assert sent.status_code == 200
            lines = (compared / JUDGEMENTS).read_text().strip().splitlines()
            assert len(lines) == number + 1
            preferred.append(json.loads(lines[-1])["preferred"])
            assert preferred[-1] == {"left": side, "right": "ab".replace(side, ""), "tie": "tie"}[choice]
    with opened(compared) as again:  # goes on with the two that are left
        assert again.left_to_judge == 2
        for _ in range(2):
            pair = re.search(r'name="pair" value="(\d+)"', requests.get(again.url, timeout=9).text)[1]
            requests.post(f"{again.url}judge", data={"pair": pair, "choice": "tie"}, timeout=9)
        assert "Thank you" in requests.get(again.url, timeout=9).text
    capsys.readouterr()
    assert main(["compare", "rate", str(compared), "--json"]) == 0  # all are judged: it writes the report and ends
    found = json.loads(capsys.readouterr().out)
    assert (found["judged"], found["tie"]) == (6, 3)
    assert found["b"] == preferred.count("b")
    assert 0 <= found["share_b"]["low"] <= found["share_b"]["value"] <= found["share_b"]["high"] <= 1
    assert "What people preferred" in (compared / "report.html").read_text()


def test_nobody_else_can_judge(compared: Path):
    with opened(compared) as rating:
        root = rating.url.rsplit("/", 2)[0]
        assert requests.get(root, timeout=9).status_code == 404
        assert requests.get(f"{root}/guess/", timeout=9).status_code == 404
        assert requests.get(f"{rating.url}../settings.json", timeout=9).status_code == 404
        assert requests.get(f"{rating.url}99/left", timeout=9).status_code == 404
        assert requests.post(f"{root}/guess/judge", data={"pair": 0, "choice": "left"}, timeout=9).status_code == 404
        for form in ({"pair": "0", "choice": "both"}, {"pair": "99", "choice": "left"}, {"pair": "-1"}, {}):
            assert requests.post(f"{rating.url}judge", data=form, timeout=9).status_code in (400, 404)
        assert requests.post(f"{rating.url}judge", data={"pair": "0" * 999}, timeout=9).status_code == 404
        assert not (compared / JUDGEMENTS).exists()


def test_both_orders_come_up():
    sides = [left_side((prompt, 0)) for prompt in range(100)]
    assert 30 < sides.count("a") < 70


def test_folders_without_pairs_to_show(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["compare", "rate", str(tmp_path)]) == 2
    (tmp_path / "p.txt").write_text("one\n")
    where = ["--prompts", str(tmp_path / "p.txt"), "--out", str(tmp_path / "out")]
    endpoint = f"{tiny}#num_inference_steps=1&recipe=small"
    main(["compare", "--a", endpoint, "--b", endpoint, *where])
    with pytest.raises(InvalidInput, match="not identical"):
        opened(tmp_path / "out")

"""The commands as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hybridstitch.cli.demo import run_demo
from hybridstitch.cli.main import main
from hybridstitch.serving.server.server import Server


def test_generate_writes_picture_report_and_mask(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture, report, mask = (tmp_path / name for name in ("a.png", "a.json", "a-mask.png"))
    arguments = ["generate", "red apple", "--pair", str(tiny), "--seed", "3", "--num-inference-steps", "4"]
    recipe = '{"plan": {"type": "staged", "large": 0.5, "hybrid": 0.5, "share": 0.25}}'
    outputs = ["--out", str(picture), "--report", str(report), "--mask-overlay", str(mask)]
    assert main([*arguments, "--recipe", recipe, *outputs]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("recipe custom, seed 3", "large", "hybrid"))
    assert Image.open(picture).size == (32, 32)
    shown = Image.open(mask)
    assert shown.width == 256 < shown.height
    colours = {colour for _, colour in shown.crop((0, 0, 256, 256)).getcolors(256 * 256)}
    assert any(red > blue + 60 for red, _, blue in colours)  # yellow
    assert any(blue > red + 60 for red, _, blue in colours)
    assert json.loads(report.read_text())["seed"] == 3
    assert json.loads(Image.open(picture).text["hybridstitch"])["prompt"] == "red apple"


def test_the_demo_shows_a_mask(emoji: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    run_demo(lines.append, tmp_path, emoji)
    assert any(line.startswith("hybrid ") for line in lines)
    report = json.loads((tmp_path / "apple.json").read_text())
    assert report["recipe"]["name"] == "hybridstitch-plus"
    assert Image.open(tmp_path / "apple.png").size == (128, 128)
    assert any(0 < share < 1 for share in report["mask"]["share_by_step"])
    assert Image.open(tmp_path / "apple-mask.png").width == 256


def test_the_report_can_be_read_by_a_program(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "a.webp"
    assert main(["generate", "x", "--pair", str(tiny), "--num-inference-steps", "1", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_inference_steps"] == 1
    assert Image.open(out).format == "WEBP"


def test_wrong_input_names_every_field_and_exits_with_2(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = str(tmp_path / "a.png")
    assert main(["generate", "", "--pair", str(tiny), "--seed", "-1", "--recipe", "fastest", "--out", out]) == 2
    errors = capsys.readouterr().err
    assert all(f"error: {field}: expected" in errors for field in ("prompt", "--seed", "--recipe"))
    assert main(["generate", "x", "--out", str(tmp_path / "a.gif")]) == 2
    assert main(["pack", "--pair", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 2
    assert main(["serve", "--store", str(tmp_path)]) == 2


def test_a_server_that_is_not_there_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    url = "http://127.0.0.1:9"  # the discard port, where nothing listens
    assert main(["generate", "x", "--url", url, "--out", str(tmp_path / "a.png")]) == 1
    assert "error:" in capsys.readouterr().err


def test_recipes_lists_them_all(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["hybridstitch"]["plan"]["share"] == 0.3
    assert main(["recipes"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(listed)


def test_pack_prints_the_archive(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pack", "--pair", str(tiny), "--out", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "hybridstitch.mar"


def test_recipes_of_a_pair_that_was_tuned(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plus = {"plan": "all"}
    (tmp_path / "recipes.json").write_text(json.dumps({"named": {"plus": plus}, "points": []}))
    assert main(["recipes", "--pair", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plus"]["plan"] == {"type": "all"}
    (tmp_path / "recipes.json").write_text(json.dumps({"named": {"plus": {"plan": "fast"}}, "points": []}))
    assert main(["recipes", "--pair", str(tmp_path)]) == 2
    assert "recipes.json.named.plus.plan.type" in capsys.readouterr().err
    (tmp_path / "recipes.json").write_text("[1]")
    assert main(["recipes", "--pair", str(tmp_path)]) == 2


@pytest.mark.parametrize("arguments", [[], ["fly"], ["serve", "--port", "many"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_the_options_of_generate_are_fields_of_the_request(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["generate", "x", "--pair", str(tiny), "--seed", "3", "--num-inference-steps", "2", "--num-images", "2"]
    arguments += ["--region", "0,0,16,16", "--deadline-ms", "60000", "--out", str(tmp_path / "a.png")]
    assert main([*arguments, "--mask-overlay", str(tmp_path / "mask.png")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a-1.png", "a-2.png", "mask-1.png", "mask-2.png"}
    fields = [json.loads(Image.open(tmp_path / f"a-{number}.png").text["hybridstitch"]) for number in (1, 2)]
    assert [each["seed"] for each in fields] == [3, 4]
    assert [each["region"] for each in fields] == [[0, 0, 16, 16]] * 2
    assert main([*arguments, "--region", "9,9,1,1"]) == 2
    assert "error: --region" in capsys.readouterr().err


def test_generate_takes_its_token_from_the_environment_or_a_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["generate", "x", "--url", server.url, "--num-inference-steps", "1", "--num-images", "2"]
    arguments += ["--out", str(tmp_path / "a.jpg")]
    assert main(arguments) == 1  # no token
    assert main([*arguments, "--key-file", str(server.key_file)]) == 0
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", server.token() or "")
    assert main(arguments) == 0
    assert [Image.open(tmp_path / f"a-{number}.jpg").format for number in (1, 2)] == ["JPEG", "JPEG"]
    (tmp_path / "keys.json").write_text("{}")
    assert main([*arguments, "--key-file", str(tmp_path / "keys.json")]) == 2

"""model-config.yaml: every key is known and of the right kind, or refused by its name before anything runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.recipe.catalogue import Catalogue, TunedRecipe
from hybridstitch.recipe.recipe import recipes
from hybridstitch.serving.config import config_problems
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.settings import quality_table, read_settings
from tests.support.handlers import CONFIG, make_handler

TORCHSERVE: dict[str, Any] = {
    "minWorkers": 1,
    "maxWorkers": 2,
    "batchSize": 4,
    "maxBatchDelay": 0,
    "responseTimeout": 60,
    "startupTimeout": 60,
    "maxRetryTimeoutInSec": 10,
    "jobQueueSize": 10,
    "useJobTicket": True,
    "useVenv": False,
    "deviceType": "gpu",
    "deviceIds": [0, 1],
    "clientTimeoutInMills": 0,
    "continuousBatching": False,
    "asyncCommunication": False,
    "sequenceBatching": False,
    "parallelLevel": 1,
}
HANDLER: dict[str, Any] = {
    "dtype": "bfloat16",
    "explanations": False,
    "mark": False,
    "pictures_per_forward": 2,
    "max_response_bytes": 1000,
    "max_memory_mib": 4000,
    "prompt_cache_mib": 100,
    "text_encoders": "cpu",
    "offload": "group",
    "defaults": {"recipe": "small"},
    "strategies": {"masks": {"mine": "module:Mask"}, "plans": {}},
    "quality": {"auto": None, "low": 4, "medium": 2.5, "high": 1},
}
WRONG = (None, "", "1", 1.5, -1, 2**31, True, [None], [[]], {}, {"a": "b"})


def wrong_values(right: Any) -> list[Any]:
    """Values of another type than a right one, and integers outside of every range."""
    return [value for value in WRONG if type(value) is not type(right) or type(value) is int]


def named(config: Any) -> list[str]:
    return [problem.field for problem in config_problems(config)]


def test_every_known_setting_is_accepted() -> None:
    assert named({**TORCHSERVE, "handler": HANDLER}) == []
    assert named(CONFIG) == []
    assert named({"handler": None}) == named({"handler": {"defaults": None, "strategies": None}}) == []


LAUGHS = b"a0: &a0 [0,0,0,0,0,0,0,0,0,0]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b",".join([b"*a%d" % (level - 1)] * 10)) for level in range(1, 9)
)
"""Ten lines that stand for a thousand million values."""


@pytest.mark.parametrize("name", TORCHSERVE)
def test_a_setting_of_torchserve_with_a_wrong_value_is_named(name: str) -> None:
    for value in wrong_values(TORCHSERVE[name]):
        assert named({name: value}) == [name], value


@pytest.mark.parametrize("name", HANDLER)
def test_a_setting_of_the_handler_with_a_wrong_value_is_named(name: str) -> None:
    for value in wrong_values(HANDLER[name]):
        if value is None and name in ("defaults", "strategies", "quality"):
            continue  # an empty section
        assert named({"handler": HANDLER | {name: value}}) == [f"handler.{name}"], value


@pytest.mark.parametrize(
    ("config", "field", "hint"),
    [
        ({"handlr": {}}, "handlr", "did you mean handler?"),
        ({"pt2": {}}, "pt2", "{compile: {enable: true}}, which is handler.compile: blocks"),
        ({"pt2": "inductor"}, "pt2", "{compile: {enable: true}}"),
        ({"pt2": {"export": {"aot_compile": True}}}, "pt2", "{compile: {enable: true}}"),
        (
            {"pt2": {"compile": {"enable": True, "mode": "reduce-overhead"}}},
            "pt2",
            "other options of it have no effect",
        ),
        ({"pt2": {"compile": {"enable": True, "backend": "openvino"}}}, "pt2", "other options of it have no effect"),
        ({"pt2": {"compile": {"enable": True}}}, "startupTimeout", "at least 1800"),
        (
            {"pt2": {"compile": {"enable": True}}, "handler": {"compile": "none"}, "startupTimeout": 1800},
            "pt2.compile.enable",
            "false beside handler.compile: none",
        ),
        (
            {"pt2": {"compile": {"enable": False}}, "handler": {"compile": "blocks"}, "startupTimeout": 1800},
            "pt2.compile.enable",
            "true beside handler.compile: blocks",
        ),
        ({"micro_batching": {"micro_batch_size": 4}}, "micro_batching", "pictures_per_forward divides a batch"),
        ({"vllm_engine_config": {}}, "vllm_engine_config", "one of: asyncCommunication, batchSize"),
        ({"dtype": "float16"}, "dtype", "handler.dtype"),
        ({"batch_size": 4}, "batch_size", "did you mean batchSize?"),
        ({1: 2}, "1", "one of: asyncCommunication, batchSize"),
        ({"handler": {"profile": True}}, "handler.profile", "one of: compile, compile_cache"),
        ({"handler": {"default": {}}}, "handler.default", "did you mean defaults?"),
        ({"handler": {"batchSize": 4}}, "handler.batchSize", "batchSize, outside of handler:"),
        ({"handler": {"compiled": "blocks"}}, "handler.compiled", "one of: compile, compile_cache"),
        ({"handler": {"quality": [4, 2]}}, "handler.quality", "a mapping of names to speeds"),
        ({"handler": {"quality": {"hihg": 2}}}, "handler.quality.hihg", "one of: auto, low, medium, high; did"),
        ({"handler": {"quality": {"low": 0.5}}}, "handler.quality.low", "at least 1, or null"),
        ({"handler": {"quality": {"low": "4"}}}, "handler.quality.low", "at least 1, or null"),
        ({"handler": {"quality": {"low": True}}}, "handler.quality.low", "at least 1, or null"),
        ({"handler": {"quality": {"low": math.nan}}}, "handler.quality.low", "at least 1, or null"),
        ({"handler": {"compile": "all"}}, "handler.compile", "one of: none, blocks"),
        ({"handler": {"compile": "blocks"}}, "startupTimeout", "at least 1800"),
        ({"handler": {"compile": "blocks", "offload": "group"}}, "handler.offload", "none or model"),
        ({"minWorkers": 2, "maxWorkers": 1}, "maxWorkers", "at least 2, the minWorkers"),
        ({"clientTimeoutInMills": 500}, "clientTimeoutInMills", "deadline_ms"),
        ({"continuousBatching": True}, "continuousBatching", "false: "),
        ({"parallelType": "tp"}, "parallelType", "one process"),
        ({"torchrun": {"nproc-per-node": 2}}, "torchrun", "one process"),
        ({"maxNumSequence": 4}, "maxNumSequence", "no sequences"),
        ("text", "model-config.yaml", "a mapping"),
        ([], "model-config.yaml", "a mapping"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused_with_a_hint(config: Any, field: str, hint: str) -> None:
    (problem,) = config_problems(config)
    assert (problem.field, hint in problem.expected) == (field, True), str(problem)


def test_torchserves_own_setting_compiles_the_blocks(tiny: Path) -> None:
    ours = {"handler": {"compile": "blocks"}, "startupTimeout": 1800}
    theirs = [
        {"startupTimeout": 1800, "pt2": {"compile": {"enable": True, **more}}} for more in ({}, {"backend": "inductor"})
    ]
    off = {"pt2": {"compile": {"enable": False}}}
    assert [named(each) for each in (ours, *theirs, off)] == [[], [], [], []]
    found = [read_settings(each, tiny.parent, None).compile for each in (ours, *theirs, off, {})]
    assert found == ["blocks", "blocks", "blocks", "none", "none"]


def test_everything_wrong_is_named_at_once() -> None:
    config = {"minWorkers": "2", "handlr": 1, "handler": {"dtype": ["float32"], "defaults": [], "profile": True}}
    assert named(config) == ["minWorkers", "handlr", "handler.dtype", "handler.profile", "handler.defaults"]


@pytest.mark.parametrize(
    ("content", "field", "words"),
    [
        (None, "config", "existing"),
        (b"", "model-config.yaml", "a mapping"),
        (b"- 1", "model-config.yaml", "a mapping"),
        (b"a: [", "config", "line 1: expected the node content"),
        (b"handler:\n\tdtype: float32\n", "config", "(line 2: found character '\\t'"),
        (b"handler: {dtype: float16}\nhandler: {}", "config", "twice"),
        (b"\xff\xfe\x00", "config", "can be read"),
        (b"[" * 5000, "config", "can be read"),
        (LAUGHS, "config", "more than 10000 values"),
        (b"minWorkers: 2\nmaxWorkers: 1\n", "maxWorkers", "at least 2"),
        (b"micro_batching: {micro_batch_size: 4}", "micro_batching", "nothing: "),
        (b"pt2: {compile: {enable: true, mode: max-autotune}}", "pt2", "{compile: {enable: true}}"),
        (b"handler: {profile: true}", "handler.profile", "one of: "),
    ],
)
def test_a_wrong_file_is_refused_when_it_is_packed(
    tiny: Path, tmp_path: Path, content: bytes | None, field: str, words: str
) -> None:
    config = tmp_path / "model-config.yaml"
    if content is not None:
        config.write_bytes(content)
    with pytest.raises(InvalidInput) as refused:
        pack(tiny, out=tmp_path / "store", config=config)
    (problem,) = refused.value.problems
    assert (problem.field, words in problem.expected) == (field, True), str(problem)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"handlr": {}}, "handlr"),
        ({"pt2": {"export": {}}}, "pt2"),
        ({"micro_batching": {"micro_batch_size": 2}}, "micro_batching"),
        ({"minWorkers": 2, "maxWorkers": 1}, "maxWorkers"),
        ({"handler": {"dtype": ["float32"]}}, "handler.dtype"),
        ({"handler": {"defaults": []}}, "handler.defaults"),
        ({"handler": {"defaults": {"num_inference_steps": 500}}}, "handler.defaults.num_inference_steps"),
        ({"handler": {"defaults": {"recipe": "nope"}}}, "handler.defaults.recipe"),
        ({"handler": {"defaults": {"prompt": 5}}}, "handler.defaults.prompt"),
        ({"handler": {"quality": {"low": 4.5}}}, "handler.quality.low"),  # the toy pair is not tuned: at most 4
        ({"handler": {"strategies": {"masks": None}}}, "handler.strategies.masks"),
        ({"handler": {"strategies": {"mask": {}}}}, "handler.strategies.mask"),
        ({"handler": {"strategies": {"masks": {"mine": "no_such_module:Mine"}}}}, "handler.strategies.masks.mine"),
        ({"handler": {"strategies": {"masks": {"mine": ":Mine"}}}}, "handler.strategies.masks.mine"),
    ],
)
def test_a_wrong_setting_ends_the_start_by_name(tiny: Path, config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_handler("hybridstitch_handler", tiny, config)
    assert [problem.field for problem in refused.value.problems] == [field]


@pytest.mark.parametrize("given", [{}, {"low": 3, "high": None}, {"auto": 1}])
def test_the_operators_qualities_replace_the_usual_ones(tiny: Path, given: dict[str, Any]) -> None:
    usual = {"auto": None, "low": 4.0, "medium": 2.5, "high": 1.83}
    assert (
        make_handler("hybridstitch_handler", tiny, {"handler": {"quality": given}}).service.settings.quality
        == usual | given
    )


def test_a_usual_quality_is_at_most_the_highest_speed_of_the_pair() -> None:
    slow = replace(Catalogue.load(), tuned=(TunedRecipe(recipes()["front"], {4.5: 0.4}, {4.5: 20.0}, "front"),))
    assert quality_table({"high": 1.5}, slow) == {"auto": None, "low": 2.5, "medium": 2.5, "high": 1.5}


def test_a_quality_beyond_the_pair_is_refused_when_it_is_packed(tiny: Path, tmp_path: Path) -> None:
    config = tmp_path / "model-config.yaml"
    config.write_text("handler: {quality: {low: 9}}")
    with pytest.raises(InvalidInput, match=r"handler\.quality\.low: expected a number within 1\.\.4"):
        pack(tiny, out=tmp_path / "store", config=config)


@pytest.mark.parametrize(
    "defaults", [{"region": [0, 0, 16, 16]}, {"previews": 2, "stream": True}, {"recipe": "small"}, {"speed": 2}]
)
def test_the_plain_endpoint_ignores_the_defaults_of_stitching(tiny: Path, defaults: dict[str, Any]) -> None:
    assert make_handler("plain_sd3_handler", tiny, {"handler": {"defaults": defaults}}).initialized


@pytest.mark.parametrize(
    ("folder", "fields"), [("/var/cache", []), ("", ["handler.compile_cache"]), (3, ["handler.compile_cache"])]
)
def test_the_folder_of_compiled_code_is_a_path(folder: Any, fields: list[str]) -> None:
    assert [each.field for each in config_problems({"handler": {"compile_cache": folder}})] == fields

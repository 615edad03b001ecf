"""A worker with little memory: it starts by its plan, bounds requests by it, and groups fewer pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.model.memory import MemoryPlan
from hybridstitch.model.pair import find_files
from hybridstitch.serving.capacity import RESERVED_SHARE
from tests.support.handlers import CONFIG, QUICK, call, make_handler

MIB = 2**20
STITCHED = QUICK | {"recipe": "hybridstitch", "num_inference_steps": 4}


def config(**handler: Any) -> dict[str, Any]:
    return {**CONFIG, "handler": {**CONFIG["handler"], "dtype": "float32", **handler}}


@pytest.fixture(scope="module")
def memory(emoji: Path) -> int:
    """MiB with room for one picture of the embedded pair at its default size, not for two."""
    plan = MemoryPlan.of(find_files(emoji, None, None))
    weights, picture = sum(plan.weight_bytes("float32").values()), plan.picture_bytes("float32", 128, 128)
    return int((weights + 1.7 * picture) / (1 - RESERVED_SHARE) / MIB)


@pytest.fixture(scope="module")
def short_of_memory(emoji: Path, tmp_path_factory: pytest.TempPathFactory, memory: int) -> Any:
    """A handler that may use `memory`."""
    folder = tmp_path_factory.mktemp("short")
    (folder / "pair").symlink_to(emoji)
    return make_handler("hybridstitch_handler", folder / "pair", config(max_memory_mib=memory))


def problems(answer: bytes) -> list[dict[str, Any]]:
    return json.loads(answer)["error"]["problems"]


def test_the_description_has_the_limits(short_of_memory: Any, memory: int) -> None:
    described = short_of_memory.describe_handle()["memory"]
    assert described["pictures_per_forward"] == 1
    assert described["free_bytes"] == memory * MIB
    assert described["largest_square"] == 128
    room = (1 - RESERVED_SHARE) * memory * MIB - described["weights_bytes"]
    assert described["picture_bytes"] < room < 2 * described["picture_bytes"]


def test_more_pictures_than_fit_are_refused_with_the_limit(short_of_memory: Any) -> None:
    (answer, fits), context = call(
        short_of_memory, [{"body": STITCHED | {"num_images": 3}}, {"body": STITCHED | {"response_format": "json"}}]
    )
    assert context.get_response_status(0)[0] == 400
    (problem,) = problems(answer)
    assert (problem["field"], problem["got"]) == ("num_images", 3)
    assert problem["expected"].startswith("at most 1 at 128x128")
    assert context.get_response_status(1)[0] == 200
    assert json.loads(fits)["report"]["batch_size"] == 1


def test_what_needs_less_memory_is_not_refused(short_of_memory: Any) -> None:
    """Without a mask there is no K/V cache, and a smaller picture takes less."""
    for fields in ({"width": 64, "height": 64, "num_images": 4}, {"recipe": "large", "num_images": 2}):
        _, context = call(short_of_memory, [{"body": STITCHED | fields | {"response_format": "json"}}])
        assert context.get_response_status(0)[0] == 200, fields


def test_a_batch_is_generated_in_groups_that_fit(short_of_memory: Any) -> None:
    rows = [{"body": STITCHED | {"seed": seed, "response_format": "json"}} for seed in (1, 2, 3)]
    answers, context = call(short_of_memory, rows)
    assert [context.get_response_status(index)[0] for index in range(3)] == [200] * 3
    assert [json.loads(answer)["report"]["batch_size"] for answer in answers] == [1, 1, 1]


def for_96(emoji: Path) -> int:
    """MiB with room for a picture of 96x96."""
    plan = MemoryPlan.of(find_files(emoji, None, None))
    free = sum(plan.weight_bytes("float32").values()) + plan.picture_bytes("float32", 96, 96)
    return int(free / (1 - RESERVED_SHARE) / MIB) + 1


def test_a_size_beyond_the_memory_is_refused_with_the_limit(emoji: Path, tmp_path: Path) -> None:
    (tmp_path / "pair").symlink_to(emoji)
    small = config(max_memory_mib=for_96(emoji), defaults={"width": 64, "height": 64})
    handler = make_handler("hybridstitch_handler", tmp_path / "pair", small)
    rows = [{"body": STITCHED | {"width": width, "height": 128}} for width in (64, 128)]
    (_, refused), context = call(handler, rows)
    assert [context.get_response_status(index)[0] for index in range(2)] == [200, 400]
    (problem,) = problems(refused)
    assert (problem["field"], problem["got"]) == ("width", 128)
    assert problem["expected"].startswith("a smaller size, at most about 96x96: this picture needs 15 MiB of memory")


def test_a_worker_whose_default_picture_does_not_fit_names_the_default(emoji: Path, tmp_path: Path) -> None:
    (tmp_path / "pair").symlink_to(emoji)
    little = config(max_memory_mib=for_96(emoji), defaults={"recipe": "hybridstitch"})
    with pytest.raises(InvalidInput, match=r"handler\.defaults\.width: expected a smaller size, at most about 96x96"):
        make_handler("hybridstitch_handler", tmp_path / "pair", little)


@pytest.mark.parametrize("handler", ["hybridstitch_handler", "plain_sd3_handler"])
def test_a_worker_whose_weights_do_not_fit_loads_nothing(handler: str, emoji: Path, tmp_path: Path) -> None:
    (tmp_path / "pair").symlink_to(emoji)
    with pytest.raises(InvalidInput, match=r"memory of cpu: expected \d+ MiB for the weights in float32") as refused:
        make_handler(handler, tmp_path / "pair", config(max_memory_mib=10))
    assert "handler.dtype bfloat16" in str(refused.value)

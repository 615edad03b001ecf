"""Every bad request is refused by name, and the worker that refuses them all goes on serving."""

from __future__ import annotations

import pytest
import requests

from hybridstitch.serving.client.client import Client, ServiceError
from hybridstitch.serving.server.server import Server
from tests.support.bad_requests import BAD_REQUESTS, Bad
from tests.support.served import QUICK


@pytest.fixture(scope="module")
def pid(server: Server) -> int:
    return server.workers("hybridstitch")[0]["pid"]


def test_the_table_is_large_and_without_doubles() -> None:
    assert len(BAD_REQUESTS) >= 40
    assert len({bad.name for bad in BAD_REQUESTS}) == len(BAD_REQUESTS)


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda bad: bad.name)
def test_it_is_refused_and_every_wrong_field_is_named(server: Server, pid: int, bad: Bad) -> None:
    headers = {"Authorization": f"Bearer {server.token()}"}
    if bad.content_type:
        headers["Content-Type"] = bad.content_type
    url = f"{server.url}/predictions/hybridstitch"
    answer = requests.post(url, data=bad.body, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["type"] == "invalid_request"
    assert {problem["field"] for problem in error["problems"]} == bad.fields
    assert all(problem["expected"] for problem in error["problems"])
    assert server.workers("hybridstitch")[0]["pid"] == pid


def test_a_good_request_right_after_all_of_them_is_served(server: Server, client: Client, pid: int) -> None:
    assert client.generate(**QUICK).image.size == (128, 128)
    worker = server.workers("hybridstitch")[0]
    assert (worker["pid"], worker["status"]) == (pid, "READY")


def test_a_size_off_the_grid_is_told_the_nearest_one(client: Client) -> None:
    limits = client.describe()[0]["customizedMetadata"]["limits"]
    step = limits["multiple_of"]
    with pytest.raises(ServiceError) as refused:
        client.generate("red apple", width=limits["maximum"] - step + 1)
    (problem,) = refused.value.problems
    assert problem["expected"].endswith(f"the nearest is {limits['maximum'] - step}")


def test_the_plain_endpoint_knows_no_recipe(client: Client) -> None:
    with pytest.raises(ServiceError) as refused:
        client.generate("red apple", model="plain", recipe="large")
    assert [problem["field"] for problem in refused.value.problems] == ["recipe"]

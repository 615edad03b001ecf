"""What only gRPC has: stubs from TorchServe's jar, limits of messages, errors inside good answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hybridstitch import InvalidInput, ServiceError
from hybridstitch.serving.client.grpc import MESSAGE_BYTES
from tests.support.served import QUICK, Connect


def test_nothing_is_streamed(connect: Connect) -> None:
    with pytest.raises(InvalidInput, match="nothing is streamed over gRPC"):
        connect("grpc").stream("red apple")


def test_a_large_answer_arrives(connect: Connect, echo: str) -> None:
    size = 24 * 2**20
    assert len(connect("grpc").predict({"size": size}, echo).json()["filling"]) == size


def test_a_request_over_the_limit_of_the_server_is_refused_and_the_next_is_served(connect: Connect) -> None:
    for transport in ("http", "grpc"):
        client = connect(transport)
        with pytest.raises(ServiceError) as refused:
            client.generate("x" * 400_000)
        assert (refused.value.status, refused.value.kind) == (413, "server_error")
        assert client.generate(**QUICK).seed == 7


def test_a_request_over_the_limit_of_the_client_is_not_sent(connect: Connect, echo: str) -> None:
    with pytest.raises(ServiceError, match="larger than max") as refused:
        connect("grpc").predict({"prompt": "x" * MESSAGE_BYTES}, echo)
    assert refused.value.status == 413


def test_many_problems_are_not_cut_off(connect: Connect) -> None:
    fields = {f"unknown-{number}-{'x' * 60}": "y" * 70 for number in range(40)}
    http, grpc = (_refused(connect, transport, fields) for transport in ("http", "grpc"))
    assert len(grpc.problems) == 40
    assert (http.status, http.message, http.problems) == (grpc.status, grpc.message, grpc.problems)


def test_an_error_inside_a_good_answer_is_raised(connect: Connect, echo: str) -> None:
    problem = {"field": "width", "expected": "8", "got": 7}
    document = {"error": {"type": "invalid_request", "message": "no", "problems": [problem]}}
    with pytest.raises(ServiceError) as refused:
        connect("grpc").predict({"body": document}, echo)
    error = refused.value
    assert (error.status, error.kind, error.message, error.problems) == (400, "invalid_request", "no", [problem])


def test_an_address_needs_no_scheme(connect: Connect) -> None:
    url = connect("grpc").url.removeprefix("http://")
    assert connect("grpc", url=url).health()


def test_nobody_is_scaled_to_nothing(connect: Connect) -> None:
    client = connect("grpc")
    with pytest.raises(InvalidInput, match="0 only over http"):
        client.scale("plain", 0)
    assert len(client.describe("plain", customized=False)[0]["workers"]) == 1


def test_describe_brings_what_the_endpoint_says_of_itself(connect: Connect) -> None:
    http, grpc = (connect(transport).describe()[0]["customizedMetadata"] for transport in ("http", "grpc"))
    assert http["recipes"] == grpc["recipes"]


def test_http_needs_none_of_its_packages_and_grpc_says_which() -> None:
    code = """
import sys
sys.modules["grpc"] = None  # an import of it fails
from hybridstitch import Client
Client("http://127.0.0.1:8080")
try:
    Client("127.0.0.1:7070", transport="grpc")
except ImportError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "hybridstitch[serve]" in done.stderr


def _refused(connect: Connect, transport: str, fields: dict[str, str]) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        connect(transport).generate("red apple", **fields)
    return refused.value

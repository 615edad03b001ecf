"""Reads TorchServe's gRPC services from the .proto files in its jar. Nothing generated is kept.

Importing this needs grpcio-tools, using it torchserve: the extra `serve`.
"""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from hybridstitch.base.extras import extra, require

with extra("serve"):
    from grpc_tools import protoc

INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
FILES = ("inference.proto", "management.proto")


@dataclass(frozen=True)
class Method:
    """One unary call: its path on the wire and the types of its two messages."""

    path: str
    request: Any
    response: Any


@cache
def methods(service: str) -> dict[str, Method]:
    """All calls of a service by name. Raises MissingExtra if torchserve is not installed."""
    return {
        each.name: Method(
            f"/{service}/{each.name}", GetMessageClass(each.input_type), GetMessageClass(each.output_type)
        )
        for each in _pool().FindServiceByName(service).methods
    }


@cache
def _pool() -> DescriptorPool:
    # A separate pool: the default one may hold messages of the same names.
    pool = DescriptorPool()
    for file in _compile(_jar()).file:
        pool.Add(file)
    return pool


def _compile(jar: Path) -> FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(jar) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".proto")])
        out = Path(folder, "services")
        command = ["protoc", f"-I{folder}", "--include_imports", f"--descriptor_set_out={out}", *FILES]
        if status := protoc.main(command):
            raise RuntimeError(f"{jar}: its .proto files do not compile; protoc ended with {status}")
        return FileDescriptorSet.FromString(out.read_bytes())


def _jar() -> Path:
    require("ts", "serve", "torchserve")
    package = importlib.util.find_spec("ts")
    return Path(str(package and package.origin)).parent / "frontend" / "model-server.jar"

"""The manifest for KubeRay: its own fields, its pods, and the application that Ray builds from it."""

from __future__ import annotations

import copy
import inspect
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from ray.serve.schema import ServeDeploySchema

from hybridstitch.base.paths import ROOT
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.manifest import read_archive
from hybridstitch.serving.ray.app import FRONT, START_TRIES, application, build
from hybridstitch.serving.server.pack import pack
from tests.support.archives import pack_echo

FOLDER = ROOT / "deploy" / "ray"
SCHEMA = json.loads((ROOT / "tests" / "support" / "rayservice.schema.json").read_text())

Manifest = dict[str, Any]


@pytest.fixture
def manifest() -> Manifest:
    return yaml.safe_load((FOLDER / "rayservice.yaml").read_text())


def templates(manifest: Manifest) -> list[Manifest]:
    cluster = manifest["spec"]["rayClusterConfig"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_manifest_has_kuberays_fields_alone(manifest: Manifest) -> None:
    jsonschema.validate(manifest, SCHEMA)
    for path, value in (("spec", {"replicas": 2}), ("rayClusterConfig", {"rayVersion": 2})):
        wrong = copy.deepcopy(manifest)
        (wrong["spec"] if path == "spec" else wrong["spec"][path]).update(value)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_its_pods_fit_kubernetes(manifest: Manifest, version: str) -> None:
    for template in templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **template}
        kubernetes_validate.validate(pod, version, strict=True)
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_its_application_fits_ray_and_this_package(manifest: Manifest) -> None:
    config = ServeDeploySchema(**yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    (found,) = config.applications
    assert found.import_path == f"{build.__module__}:{build.__name__}"
    known = {"store", *inspect.signature(application).parameters}
    assert found.args.keys() <= known
    ports = {port["containerPort"] for each in templates(manifest) for port in each["spec"]["containers"][0]["ports"]}
    assert config.http_options.port in ports
    mounts = {each["mountPath"] for each in templates(manifest)[1]["spec"]["containers"][0]["volumeMounts"]}
    assert {found.args["store"], str(Path(found.args["key_file"]).parent)} <= mounts


def test_its_ray_is_the_one_that_is_pinned(manifest: Manifest) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == pinned[1]
    (wanted,) = re.findall(r'^ray = \["(ray\[serve\][^"]*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert pinned[1] in Requirement(wanted).specifier


def test_an_application_has_replicas_of_each_model(tiny: Path, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        pack(tiny, out=tmp_path, version=version, archive_format="no-archive")
    built = build({"store": str(tmp_path), "replicas": 3, "gpus": 0.5})
    front = built._bound_deployment
    served = front.init_args[0]
    assert (front.name, front.num_replicas) == (FRONT, 1)
    assert [(each.options.name, each.options.version, each.replicas) for each in served] == [
        ("hybridstitch", "1.0", 3),
        ("hybridstitch", "2.0", 3),
    ]
    replica = served[0].handle._bound_deployment
    assert (replica.num_replicas, replica.ray_actor_options["num_gpus"]) == (3, 0.5)
    assert replica.max_ongoing_requests == served[0].options.batch_size == 1
    assert replica._deployment_config.max_constructor_retry_count == START_TRIES
    again = application([read_archive(tmp_path / "hybridstitch")], start_tries=1)._bound_deployment.init_args[0]
    assert again[0].handle._bound_deployment._deployment_config.max_constructor_retry_count == 1


def test_what_ray_cannot_serve_is_named(tiny: Path, tmp_path: Path) -> None:
    packed = pack(tiny, out=tmp_path)
    with pytest.raises(InvalidInput, match="an unpacked archive"):
        application([read_archive(packed)])
    own = tmp_path / pack_echo(tmp_path, "1.0")
    with pytest.raises(InvalidInput, match="other handlers run on TorchServe alone"):
        application([read_archive(own)])
    with pytest.raises(InvalidInput, match="store: expected an existing folder"):
        build({})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="store: expected a folder with archives"):
        build({"store": str(tmp_path / "empty")})


def test_each_wrong_argument_of_an_application_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as found:
        build({"store": str(tmp_path), "replica": 2, "replicas": 0, "gpus": -1, "key_file": "tokens.json"})
    assert sorted(problem.field for problem in found.value.problems) == ["gpus", "key_file", "replica", "replicas"]
    assert "did you mean replicas?" in str(found.value)
    pack(tiny, out=tmp_path, archive_format="no-archive")
    with pytest.raises(InvalidInput, match=r"gpus: expected a whole number, or one below 1, got 1\.5"):
        build({"store": str(tmp_path), "gpus": 1.5})
    assert build({"store": str(tmp_path), "key_file": None})._bound_deployment.init_args[1] is None

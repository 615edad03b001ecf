"""The Dockerfile and the Kubernetes manifests: linted, checked against schemas, and agreeing with each other."""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
import yaml

from hybridstitch.cli import main as cli
from hybridstitch.serving.server.process import STOP_SECONDS
from hybridstitch.serving.server.server import _read_properties

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
NO_MANIFEST = ("kustomization.yaml", "prometheus-adapter.yaml")
MANIFESTS = [path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name not in NO_MANIFEST]
KUBERNETES_VERSIONS = ("1.30", "1.37")
HADOLINT = Path(sysconfig.get_path("scripts"), "hadolint")

Manifest = dict[str, Any]


def manifest(name: str) -> Manifest:
    return yaml.safe_load((KUBERNETES / name).read_text())


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions in order, each with its arguments on one line."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in joined.split("\n") if line)
    ]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text())


def arguments(name: str) -> list[str]:
    return [rest for found, rest in DOCKERFILE if found == name]


def exec_form(text: str) -> list[str]:
    return yaml.safe_load(text[text.index("[") :])


@pytest.fixture(scope="module")
def deployment() -> Manifest:
    return manifest("base/deployment.yaml")


@pytest.fixture(scope="module")
def container(deployment: Manifest) -> Manifest:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """TorchServe's ports as config.properties has them, by name."""
    settings = _read_properties(ROOT / "config.properties")
    http = {name: int(settings[f"{name}_address"].rsplit(":", 1)[1]) for name in ("inference", "management", "metrics")}
    return http | {name: int(settings[f"{name}_port"]) for name in ("grpc_inference", "grpc_management")}


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "style", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = lint(ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && pip install torch\n")
    assert lint(tmp_path / "Dockerfile").returncode == 1


@pytest.mark.parametrize("name", ["build.sh", "base.sh"])
def test_the_scripts_of_the_image_can_be_read_by_bash(name: str) -> None:
    script = ROOT / "deploy" / "image" / name
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "set -euo pipefail" in script.read_text()


def test_the_script_reads_the_base_that_the_dockerfile_names() -> None:
    (line,) = [line for line in (ROOT / "deploy/image/build.sh").read_text().splitlines() if line.startswith("base=")]
    command = f"{line}; echo $base"
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == arguments("FROM")[0].partition(" AS ")[0]


def test_the_base_is_pinned_and_nothing_is_fetched_by_address() -> None:
    stages: set[str] = set()
    for source in arguments("FROM"):
        image, _, stage = source.partition(" AS ")
        assert image in stages or image.partition(":")[2].startswith("3.11-slim-"), image
        stages.add(stage)
    text = " ".join(rest for _, rest in DOCKERFILE).replace("http://127.0.0.1", "")
    assert not arguments("ADD")
    assert not arguments("ARG")  # no address or password can end up in the image's history
    assert "://" not in text


def test_the_image_does_not_run_as_root_and_asks_for_a_real_prediction() -> None:
    assert [int(user) for user in arguments("USER")] == [10001]
    last = [name for name, _ in DOCKERFILE]
    assert last.index("USER") > max(index for index, name in enumerate(last) if name in ("RUN", "COPY"))
    (check,) = arguments("HEALTHCHECK")
    assert exec_form(check)[:2] == ["hybridstitch", "doctor"]
    (command,) = arguments("CMD")
    assert exec_form(command)[0] == "serve"


def test_dependencies_are_installed_before_any_source_is_copied() -> None:
    copies = [rest for name, rest in DOCKERFILE if name == "COPY"]
    assert copies[0] == "pyproject.toml constraints.txt ./"
    first_source = DOCKERFILE.index(("COPY", copies[1]))
    assert any(name == "RUN" and "--requirement" in rest for name, rest in DOCKERFILE[:first_source])


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    copied = {file for rest in arguments("COPY") if "--from" not in rest for file in shlex.split(rest)[:-1]}
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / file).exists() for file in copied)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_the_schema(path: Path, version: str) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_refuses_a_misspelt_field(deployment: Manifest) -> None:
    wrong = jsonpatch.apply_patch(deployment, [{"op": "add", "path": "/spec/replica", "value": 2}])
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, KUBERNETES_VERSIONS[0], strict=True)


def test_the_base_lists_every_manifest() -> None:
    listed = manifest("base/kustomization.yaml")["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in (KUBERNETES / "base").iterdir())


def test_the_gpu_variant_is_the_base_with_a_gpu(deployment: Manifest) -> None:
    variant = manifest("gpu/kustomization.yaml")
    assert [(KUBERNETES / "gpu" / path).resolve() for path in variant["resources"]] == [KUBERNETES / "base"]
    bases = {path["kind"]: path for path in map(manifest, ("base/deployment.yaml", "base/store.yaml"))}
    patched = {}
    for patch in variant["patches"]:
        base = bases[patch["target"]["kind"]]
        assert base["metadata"]["name"] == patch["target"]["name"]
        patched[base["kind"]] = jsonpatch.apply_patch(base, yaml.safe_load(patch["patch"]))
    for document in patched.values():
        kubernetes_validate.validate(document, KUBERNETES_VERSIONS[0], strict=True)
    pod = patched["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["volumes"][1]["name"] == "temporary"  # the patch counts volumes
    assert "nvidia.com/gpu" not in str(deployment)


def test_the_same_ports_everywhere_and_management_nowhere(container: Manifest, ports: dict[str, int]) -> None:
    open_ports = {"http": ports["inference"], "metrics": ports["metrics"], "grpc": ports["grpc_inference"]}
    assert {int(port) for port in " ".join(arguments("EXPOSE")).split()} == set(open_ports.values())
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == open_ports
    service = manifest("base/service.yaml")["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == open_ports
    allowed = {port["port"] for rule in manifest("base/network.yaml")["spec"]["ingress"] for port in rule["ports"]}
    assert allowed == set(open_ports)
    assert container["livenessProbe"]["tcpSocket"]["port"] in open_ports


def test_prometheus_is_sent_to_the_metrics_port(deployment: Manifest, ports: dict[str, int]) -> None:
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert int(annotations["prometheus.io/port"]) == ports["metrics"]


@pytest.mark.parametrize("name", ["base/deployment.yaml", "fill-store.yaml"])
def test_pods_may_do_nothing_they_need_not(name: str) -> None:
    pod = manifest(name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (user,) = arguments("USER")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_what_is_written_has_a_place_with_a_limit(deployment: Manifest, container: Manifest) -> None:
    writable = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert [mount["mountPath"] for mount in writable] == ["/tmp"]
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes[writable[0]["name"]]["emptyDir"]["sizeLimit"]


def test_probes_ask_for_a_prediction_and_outlast_it(container: Manifest, ports: dict[str, int]) -> None:
    for name in ("startupProbe", "readinessProbe"):
        command = container[name]["exec"]["command"]
        options = dict(zip(command[2::2], command[3::2], strict=True))
        assert command[:2] == ["hybridstitch", "doctor"]
        assert options["--url"].endswith(f":{ports['inference']}")
        assert options["--management-url"].endswith(f":{ports['management']}")
        assert container[name]["timeoutSeconds"] > int(options["--timeout"])
    assert "exec" not in container["livenessProbe"]
    startup = container["startupProbe"]
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    assert startup["periodSeconds"] * startup["failureThreshold"] > config["startupTimeout"]


def test_there_is_time_to_end_in_order(deployment: Manifest, container: Manifest) -> None:
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > int(pause) + STOP_SECONDS


def test_the_autoscaler_scales_the_deployment_on_the_adapters_metric(deployment: Manifest) -> None:
    spec = manifest("base/autoscaler.yaml")["spec"]
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # it would undo the autoscaler's at every apply
    (metric,) = spec["metrics"]
    (rule,) = manifest("prometheus-adapter.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_the_command_line_takes_every_command_of_image_and_manifests(container: Manifest) -> None:
    ((entrypoint,), (command,), (check,)) = map(arguments, ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    started = exec_form(entrypoint)
    commands = [
        exec_form(check),
        [*started, *exec_form(command)],
        [*started, *container["args"]],  # they replace the command, not the entry point
        *(container[probe]["exec"]["command"] for probe in ("startupProbe", "readinessProbe")),
    ]
    for program, *rest in commands:
        assert program == "hybridstitch"
        options = cli._parser().parse_args(rest)
        assert options.run.__name__ == rest[0]

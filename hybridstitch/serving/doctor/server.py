"""Examines a running server, and heals models whose workers hang."""

from __future__ import annotations

from contextlib import suppress

from hybridstitch.serving.client.client import Client
from hybridstitch.serving.client.replies import INVALID_KEY, ServiceError
from hybridstitch.serving.doctor.machine import Finding
from hybridstitch.serving.doctor.probe import NoAnswer, Version, await_ready, describe, generate_on_all, versions

LEAST_SECONDS, PATIENCE = 30.0, 3.0


def examine_server(client: Client, heal: bool = False) -> list[Finding]:
    """Examine both addresses of a server and every version of its models.

    Args:
        client: A client with an address for management and both tokens. Its timeout limits each prediction.
        heal: Whether to scale a model whose workers hang to no workers and back. It must then answer.

    Returns:
        One finding for the server, and one for each version.
    """
    try:
        names = client.models()
        registered = [version for name in names for version in versions(client, name)]
    except ServiceError as error:
        advice = (
            "--key-file names the key_file.json of this server"
            if error.kind == INVALID_KEY
            else "`hybridstitch serve` starts one; --management-url names its management address if it is another"
        )
        return [Finding("server", False, f"management: {error}", advice)]
    if not registered:
        advice = "`hybridstitch pack` writes an archive, and `hybridstitch serve` registers those of its store"
        return [_examine_health(client), Finding("models", False, "none is registered", advice)]
    findings = [_examine_version(client, version, heal) for version in registered]
    return [_examine_health(client), *findings]


def patience(client: Client) -> float:
    """Seconds within which a worker of this server should generate the smallest picture.

    A multiple of what the first one took, which read all weights; `LEAST_SECONDS` where no worker reports that in time.
    """
    took = [0.0]
    with suppress(ServiceError, KeyError, TypeError, AttributeError):
        for version in [each for name in client.models() for each in versions(client, name)]:
            found = client.describe(f"{version.model}/{version.number}")[0]["customizedMetadata"]
            took.append(found.get("first_picture_seconds", 0))
    return max(LEAST_SECONDS, PATIENCE * max(took))


def _examine_health(client: Client) -> Finding:
    """The answer of /ping. It comes last: one hanging model makes the server Unhealthy until it is healed."""
    if client.health():
        return Finding("server", True, f"{client.url} reports that it is healthy")
    advice = "it is down, the token is wrong, or the workers of a model gave up"
    return Finding("server", False, f"{client.url}/ping does not report Healthy", advice)


def _examine_version(client: Client, version: Version, heal: bool) -> Finding:
    name = f"{version.model} {version.number}"
    try:
        try:
            return _prove(client, version, name, client.timeout)
        except NoAnswer as ailing:
            if not (heal and ailing.curable):
                return Finding(name, False, str(ailing), ailing.advice)
            _restart_workers(client, version)
            proven = _prove(client, version, name, version.described.get("startupTimeout", client.timeout))
            return Finding(name, proven.ok, f"healed: {proven.detail}; before: {ailing}")
    except NoAnswer as error:
        advice = "healing did not help: look at model_log.log, register the archive again, or restart the server"
        return Finding(name, False, str(error), advice)
    except ServiceError as error:
        return Finding(name, False, str(error), "the token, the address or the server's log")


def _prove(client: Client, version: Version, name: str, patience: float) -> Finding:
    """Wait until all workers are READY, then let each generate a picture."""
    if version.wanted == 0:
        return Finding(name, None, "scaled to no workers")
    version = await_ready(client, version, patience)
    description = describe(client, version)
    if description is None:
        return Finding(
            name, None, f"{version.wanted} of {version.wanted} workers READY; not ours: nothing was generated"
        )
    return Finding(name, True, generate_on_all(client, version, description))


def _restart_workers(client: Client, version: Version) -> None:
    client.scale(version.model, 0, version.number)
    client.scale(version.model, version.wanted, version.number)

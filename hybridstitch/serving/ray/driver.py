"""The process that runs Ray on one machine: `python -m hybridstitch.serving.ray.driver OPTIONS` (JSON).

It prints `ready` once all models answer, and ends when its input ends: so also when the process that started it dies.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.manifest import read_archive
from hybridstitch.serving.ray.app import FRONT, NAME, application
from hybridstitch.serving.ray.loopback import keep_to_loopback
from hybridstitch.serving.ray.server import FAILED, READY

OBJECT_STORE_BYTES = 256 * 2**20


def main(options: dict[str, Any]) -> int:
    """Serve until the input ends. Returns the exit code.

    Args:
        options: `home`, Ray's folder; `archives`, folders; `host` and `port`; `drain`, seconds for the requests that
            are at work when it ends; `replicas`, `gpus` and `key_file` as in `application`; `workers`, replicas of all
            models together.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    archives = [read_archive(Path(folder)) for folder in options["archives"]]
    more = {name: options[name] for name in ("replicas", "gpus", "key_file")}
    ray.init(
        num_cpus=1,  # replicas reserve none: Ray would start an idle process for each
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"worker_process_setup_hook": keep_to_loopback},
        _temp_dir=options["home"],
    )
    try:
        serve.start(http_options={"host": options["host"], "port": options["port"]})
        _check_gpus(options["gpus"] * options["workers"])
        serve.run(application(archives, cpus=0, start_tries=1, **more), name=NAME, route_prefix="/")
        print(READY, flush=True)  # noqa: T201 - read by the process that started this one
        sys.stdin.read()
        serve.get_deployment_handle(FRONT, NAME).drain.remote().result(timeout_s=options["drain"])
    except (InvalidInput, RuntimeError, TimeoutError) as error:
        print(FAILED + json.dumps(_reason(error)), flush=True)  # noqa: T201
        return 1
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0


def _check_gpus(wanted: float) -> None:
    """Raise InvalidInput if all replicas need more GPUs than there are: Ray would wait for them without an end."""
    found = ray.cluster_resources().get("GPU", 0)
    if wanted > found:
        raise InvalidInput([Problem("gpus", f"at most {found:g} GPUs for all replicas on this machine", wanted)])


def _reason(error: Exception) -> str:
    """The words of an error, and why replicas did not start: Ray has that in its status alone."""
    found = serve.status().applications.get(NAME)
    reasons = [each.message for each in found.deployments.values()] if found else []
    return "\n".join([str(error), *reasons]).strip()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

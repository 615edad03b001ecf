"""The application that Ray Serve runs: one front, and for each model its replicas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from hybridstitch.base.schema import Schema, integer, mismatch
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.serving.config import read_config, response_timeout
from hybridstitch.serving.manifest import HANDLERS, Archive, archive_paths, by_version, read_archive
from hybridstitch.serving.ray.front import Front, Served
from hybridstitch.serving.worker.ray import ModelOptions, RayWorker

NAME, FRONT = "hybridstitch", "front"
IS_PLAIN = {file: is_plain for is_plain, file in HANDLERS.items()}
QUEUE = 100
"""The most waiting requests of a model, as `job_queue_size` in config.properties."""
BATCH_DELAY_MS = 100
"""TorchServe's own default of `maxBatchDelay`."""
MOST_AT_FRONT = 10_000
"""The most requests that wait or are at work, of all models."""
START_TRIES = 20
"""Ray's own default: on a cluster a volume may come late."""
MOST_REPLICAS, MOST_GPUS = 1000, 64
_RULES: dict[str, Schema] = {
    "replicas": integer(1, MOST_REPLICAS),
    "gpus": {"type": "number", "minimum": 0, "maximum": MOST_GPUS},
    "key_file": {"type": "string", "minLength": 1, "maxLength": 4096, "pattern": "/.*", "$comment": "an absolute path"},
}
"""The arguments of `build` beside `store`."""


def application(
    archives: Sequence[Archive],
    *,
    replicas: int | None = None,
    gpus: float = 0,
    cpus: float = 1,
    key_file: str | None = None,
    start_tries: int = START_TRIES,
) -> Application:
    """Return the application for unpacked archives.

    Args:
        archives: Folders, the default version of each model first.
        replicas: Of each model. None: `minWorkers` of its model-config.yaml, or 1.
        gpus: GPUs of each replica, below 1 for replicas that share one.
        cpus: CPU cores of a machine that Ray reserves for each replica.
        key_file: The file with the tokens on every machine; None: requests need none.
        start_tries: How often replicas of a model may fail to start, before the first one has, until the model fails.

    Raises:
        InvalidInput: With every archive that Ray cannot serve, and every wrong setting.
    """
    problems = [problem for archive in archives for problem in _archive_problems(archive)]
    if gpus > 1 and gpus != int(gpus):
        problems.append(Problem("gpus", "a whole number, or one below 1", gpus))
    raise_problems(problems)
    served = []
    for archive in archives:
        config = read_config(archive.path / "model-config.yaml")
        count = replicas or config.get("minWorkers") or 1
        options = ModelOptions(
            archive.name,
            archive.version,
            str(archive.path),
            IS_PLAIN[archive.handler or ""],
            workers=1 if gpus >= 1 else count,
            batch_size=config.get("batchSize") or 1,
            batch_delay=config.get("maxBatchDelay", BATCH_DELAY_MS) / 1000,
            queue=config.get("jobQueueSize") or QUEUE,
            response_timeout=response_timeout(config),
        )
        deployment = serve.deployment(
            RayWorker,
            name=f"{archive.name}-{archive.version}",
            num_replicas=count,
            ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
            max_ongoing_requests=options.batch_size,
            max_queued_requests=options.queue,
            max_constructor_retry_count=start_tries,
            graceful_shutdown_timeout_s=options.response_timeout,
        )
        served.append(Served(options, count, deployment.bind(options, FRONT)))
    front = serve.deployment(
        Front,
        name=FRONT,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MOST_AT_FRONT,
        graceful_shutdown_timeout_s=max(each.options.response_timeout for each in served),
    )
    return front.bind(served, key_file)


def build(arguments: dict[str, Any]) -> Application:
    """Return the application for Ray's own configuration files: `import_path: hybridstitch.serving.ray.app:build`.

    Args:
        arguments: `store`, a folder of unpacked archives on every machine; optional `replicas`, `gpus` and `key_file`
            as in `application`. Without `key_file` requests need no token.

    Raises:
        InvalidInput: With every argument that is wrong or unknown, and as `application`.
    """
    store = arguments.get("store")
    given = {name: value for name, value in arguments.items() if value is not None}
    known = ["store", *_RULES]
    problems = [Problem(name, one_of(known, name), value) for name, value in given.items() if name not in known]
    if not (isinstance(store, str) and Path(store).is_dir()):
        problems.append(Problem("store", "an existing folder", store))
    for name, rule in _RULES.items():
        if name in given and (expected := mismatch(rule, given[name])):
            problems.append(Problem(name, expected, given[name]))
    raise_problems(problems)
    archives = sorted((read_archive(path) for path in archive_paths(str(store))), key=by_version)
    if not archives:
        raise InvalidInput([Problem("store", "a folder with archives; `hybridstitch pack` writes one", store)])
    return application(archives, **{name: given[name] for name in _RULES if name in given})


def _archive_problems(archive: Archive) -> list[Problem]:
    problems = []
    if not archive.path.is_dir():
        expected = "an unpacked archive: `hybridstitch pack --format no-archive` writes one"
        problems.append(Problem(archive.path.name, expected, "a file"))
    if archive.handler not in IS_PLAIN:
        expected = f"one of: {', '.join(IS_PLAIN)}; other handlers run on TorchServe alone"
        problems.append(Problem(f"{archive.path.name}: handler", expected, archive.handler))
    return problems

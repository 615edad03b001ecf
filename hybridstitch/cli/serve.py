"""`hybridstitch serve`: serves every archive of a store with one TorchServe, or on Ray Serve."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hybridstitch.base.progress import say, waiting
from hybridstitch.base.sizes import size_text
from hybridstitch.base.suggestions import one_of
from hybridstitch.cli.paths import packed_pair
from hybridstitch.cli.values import number, whole
from hybridstitch.errors import InvalidInput, Problem, raise_problems

if TYPE_CHECKING:
    from hybridstitch.serving.manifest import Archive
    from hybridstitch.serving.ray.server import RayServer
    from hybridstitch.serving.server.server import Server

NO_TOKENS = (
    "warning: --no-auth: there are no tokens. Every program on this machine, and every page in a browser on it, "
    "can generate pictures and, at {management}, register code that runs here"
)
NO_TOKENS_ON_RAY = (
    "warning: --no-auth: there are no tokens. Every program on this machine, and every page in a browser on it, "
    "can generate pictures"
)
TORCHSERVE, RAY = "torchserve", "ray"
LOOPBACK = "127.0.0.1"
STORE = Path("model_store")
MODEL_FOLDER = Path("/opt/ml/model")
"""Where SageMaker unpacks the `model.tar.gz` of a model."""
SAGEMAKER = "HYBRIDSTITCH_SAGEMAKER"
"""The variable that stands for --sagemaker: SageMaker starts an image with `serve` alone."""
SWITCHES = {"": False, "0": False, "false": False, "1": True, "true": True}
"""By value of the variable, whether it is on."""


def serve(options: argparse.Namespace) -> None:
    """Serve every archive of a store until Ctrl-C."""
    if options.sagemaker:
        _serve_on_sagemaker(options)
        return
    if options.engine == RAY:
        _serve_on_ray(options)
        return
    from hybridstitch.serving.server.key_file import KeptKeyFile
    from hybridstitch.serving.server.server import Server

    store = options.store or STORE
    archives = _archives(store)
    if options.no_auth:
        say(NO_TOKENS.format(management=options.port + 1 if options.port else "the management address"))
    addresses = {"host": options.host or LOOPBACK, "metrics_host": options.metrics_host, "port": options.port}
    with ExitStack() as stack:
        with waiting("starting TorchServe"):
            server = stack.enter_context(Server(store, **addresses, token_auth=not options.no_auth))
        if options.key_file:
            stack.enter_context(KeptKeyFile(server, options.key_file))
        served = [archive for archive in archives if _register(server, archive)]
        if not served:
            raise RuntimeError(f"{store}: no archive of the store could be registered")
        key_file = None if options.no_auth else options.key_file or server.key_file
        print(_welcome(server.url, served, key_file), flush=True)
        _wait(server, "ending TorchServe and its workers")


def _serve_on_ray(options: argparse.Namespace) -> None:
    from hybridstitch.base.extras import require
    from hybridstitch.serving.ray.server import RayServer, archive_of_pair

    require("ray", "ray")
    if options.no_auth:
        say(NO_TOKENS_ON_RAY)
    with ExitStack() as stack:
        if options.pair:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="hybridstitch-")), "archive")
            archives = [archive_of_pair(options.pair, folder)]
        else:
            archives = _archives(options.store or STORE)
        addresses = {"host": options.host or LOOPBACK, "port": options.port}
        tokens = {"token_auth": not options.no_auth, "key_file": options.key_file}
        with waiting("starting Ray Serve with the workers of each model"):
            started = RayServer(archives, **addresses, **tokens, replicas=options.replicas, gpus=options.gpus or 0)
            server = stack.enter_context(started)
        print(_welcome(server.url, archives, None if options.no_auth else server.key_file), flush=True)
        _wait(server, "answering what is at work, and ending Ray and its workers")


def _serve_on_sagemaker(options: argparse.Namespace) -> None:
    """Serve the one model of a folder at /ping and /invocations, without tokens. The port opens when it is ready."""
    from hybridstitch.serving.server.gate import Gate
    from hybridstitch.serving.server.sagemaker import find_archive
    from hybridstitch.serving.server.server import EVERYWHERE, Server

    with ExitStack() as stack:
        work = stack.enter_context(TemporaryDirectory(prefix="hybridstitch-"))
        archive = find_archive(options.store or MODEL_FOLDER, Path(work))
        with waiting("starting TorchServe"):
            server = stack.enter_context(Server(archive.path.parent, token_auth=False, loaded=archive))
        with waiting(_registering(archive), server.step):
            server.wait_until_loaded()
        host = options.host or EVERYWHERE
        gate = stack.enter_context(Gate(host, options.port, (LOOPBACK, server.ports["inference"])))
        print(f"ready: {archive} at http://{host}:{gate.port}/invocations and /ping, without tokens", flush=True)
        _wait(server, "ending TorchServe and its workers")


def _wait(server: Server | RayServer, ending: str) -> None:
    """Wait until Ctrl-C, then stop the server. ending: What that does, for the terminal."""
    try:
        server.wait()
    except KeyboardInterrupt:
        print("stopping", flush=True)
        with waiting(ending):
            server.stop()


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every option that is wrong."""
    from hybridstitch.serving.server.java_and_ports import host_problem, is_free, port_problem

    if options.sagemaker is None:  # nobody there would reach a server without it
        raise InvalidInput([Problem(SAGEMAKER, one_of(filter(None, SWITCHES), None), os.environ[SAGEMAKER])])
    store = options.store or (MODEL_FOLDER if options.sagemaker else STORE)
    problems = [] if options.pair or store.is_dir() else [Problem("store", "an existing folder", str(store))]
    if options.engine == RAY or options.sagemaker:
        is_taken = options.port and not (1 <= options.port < 2**16 and is_free(options.port))
        found = [Problem("port", "a port that is free, or 0", options.port) if is_taken else None]
    else:
        found = [port_problem(options.port)]
    found.append(host_problem("host", options.host or LOOPBACK))
    if options.engine == RAY:
        if options.pair and options.store:
            found.append(Problem("store", "nothing beside --pair", str(options.store)))
        if options.metrics_host != LOOPBACK:
            expected = "nothing: Ray serves metrics at the address of predictions"
            found.append(Problem("metrics-host", expected, options.metrics_host))
    else:
        found.append(host_problem("metrics-host", options.metrics_host))
        for name in ("pair", "replicas", "gpus"):
            if getattr(options, name) is not None:
                found.append(Problem(name, f"nothing without --engine {RAY}", str(getattr(options, name))))
    if options.sagemaker:
        found += _sagemaker_problems(options)
    problems += [problem for problem in found if problem]
    if options.key_file and not options.sagemaker:
        expected = _key_file_expectation(options)
        problems += [Problem("key-file", expected, str(options.key_file))] if expected else []
    raise_problems(problems)


def _sagemaker_problems(options: argparse.Namespace) -> list[Problem]:
    """The problems of options that have no meaning where SageMaker calls."""
    problems = []
    if options.engine != TORCHSERVE:
        problems.append(Problem("engine", f"{TORCHSERVE} beside --sagemaker", options.engine))
    if options.key_file:
        problems.append(Problem("key-file", "nothing beside --sagemaker: there are no tokens", str(options.key_file)))
    if options.metrics_host != LOOPBACK:
        expected = "nothing beside --sagemaker, which reads no metrics"
        problems.append(Problem("metrics-host", expected, options.metrics_host))
    return problems


def _key_file_expectation(options: argparse.Namespace) -> str:
    """What was expected in place of the named key file; "" if nothing is wrong with it."""
    folder = options.key_file.absolute().parent
    if options.no_auth:
        return "nothing: a server without tokens has none to keep"
    if options.key_file.is_dir():
        return "a file, not a folder"
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        return f"a file in a folder that exists and can be written, not {folder}"
    return ""


def _archives(store: Path) -> list[Archive]:
    """The archives of a store, the lowest version first: the first one of a model becomes its default."""
    from hybridstitch.serving.manifest import archive_paths, by_version, read_archive

    paths = archive_paths(store)
    if not paths:
        expected = "a folder with archives; `hybridstitch pack` writes one"
        raise InvalidInput([Problem("store", expected, str(store))])
    archives = []
    for path in paths:
        try:
            archives.append(read_archive(path))
        except InvalidInput as error:
            _say_left_out(path.name, error)
    return sorted(archives, key=by_version)


def _register(server: Server, archive: Archive) -> bool:
    """Register an archive. Returns False for one that cannot be served: the others still are."""
    try:
        with waiting(_registering(archive), server.step):
            server.register(archive.name, archive.path.name)
    except (InvalidInput, RuntimeError, OSError) as error:
        _say_left_out(str(archive), error)
        return False
    return True


def _registering(archive: Archive) -> str:
    return f"registering {archive}: its worker loads {size_text(archive.content_bytes)}"


def _say_left_out(what: str, error: Exception) -> None:
    say(f"error: {what} is not served: {error}")


def _welcome(url: str, served: Sequence[Archive], key_file: Path | None) -> str:
    paths = _paths(served)
    lines = [f"ready: {url}/predictions/{path}" for path in paths]
    header = ""
    if key_file:
        read = f"import json; print(json.load(open('{key_file}'))['inference']['key'])"
        lines += [f"tokens: {key_file}", "", f'TOKEN=$({sys.executable} -c "{read}")']
        header = '-H "Authorization: Bearer $TOKEN" '
    lines.append(
        f"curl -sS {url}/predictions/{paths[0]} {header}-H 'Content-Type: application/json' "
        '-d \'{"prompt": "a red apple on blue"}\' -o apple.png'
    )
    return "\n".join([*lines, "", "Ctrl-C stops the server."])


def _paths(served: Sequence[Archive]) -> list[str]:
    """The path of each archive in the URL of predictions. A model with several versions has its bare name, too."""
    count = Counter(archive.name for archive in served)
    paths = []
    for archive in served:
        if archive.name not in paths:  # the first version is the default
            paths.append(archive.name)
        if count[archive.name] > 1:
            paths.append(f"{archive.name}/{archive.version}")
    return paths


def add_command(commands: Any) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("serve", help=serve.__doc__, description=serve.__doc__)
    command.set_defaults(run=serve, check=check)
    command.add_argument("--store", type=Path, help=f"the model store ({STORE})")
    command.add_argument("--port", type=int, default=8080, help="for predictions; 0 picks free ones (%(default)s)")
    command.add_argument("--host", help=f"serve predictions at this address ({LOOPBACK})")
    command.add_argument("--metrics-host", default=LOOPBACK, help="serve metrics at this address (%(default)s)")
    command.add_argument(
        "--no-auth", action="store_true", help="serve without tokens: pages in a browser can reach it, too"
    )
    command.add_argument("--key-file", type=Path, help="keep a copy of the current tokens here, in time renewed")
    command.add_argument(
        "--sagemaker",
        action="store_true",
        default=SWITCHES.get(os.environ.get(SAGEMAKER, "").lower()),
        help=f"serve the one model of {MODEL_FOLDER} (or --store) to SageMaker: /ping and /invocations at 0.0.0.0, "
        f"without tokens ({SAGEMAKER}=1 in the environment)",
    )
    command.add_argument("--engine", choices=(TORCHSERVE, RAY), default=TORCHSERVE, help="what serves (%(default)s)")
    ray = command.add_argument_group("with --engine ray")
    ray.add_argument(
        "--pair", type=packed_pair, help="serve this packed pair, without an archive, instead of the store"
    )
    ray.add_argument(
        "--replicas", type=whole(1, 1000), help="worker processes of each model (minWorkers of its archive)"
    )
    ray.add_argument("--gpus", type=number(0, 64), help="GPUs of each replica, such as 0.5 for two on one GPU (0)")

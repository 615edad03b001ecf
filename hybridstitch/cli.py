"""The command line: `hybridstitch pack | serve | generate | bench | tune | recipes | demo`.

Exit codes: 0 it worked, 1 it failed, 2 the command or an input is wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hybridstitch.bench.command import add_command as add_bench
from hybridstitch.bench.tune_command import add_command as add_tune
from hybridstitch.compare.command import add_command as add_compare
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.client import Client, Result

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options.run(options)
    except InvalidInput as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if getattr(error, "problems", None) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def pack(options: argparse.Namespace) -> None:
    """Write one archive."""
    from hybridstitch.serving import archive

    path = archive.pack(
        options.pair,
        large=options.large,
        small=options.small,
        plain=options.plain,
        out=options.out,
        archive_format=options.format,
        name=options.name,
        version=options.version,
        recipes=options.recipes,
        config=options.config,
        extra_modules=options.extra_module,
    )
    print(path)


def serve(options: argparse.Namespace) -> None:
    """Serve every archive of a store until Ctrl-C."""
    from hybridstitch.serving.archive import find_archives
    from hybridstitch.serving.server import Server

    archives = find_archives(options.store)
    if not archives:
        expected = "a folder with archives; `hybridstitch pack` writes one"
        raise InvalidInput([Problem("store", expected, options.store)])
    token_auth = not options.no_auth
    with Server(options.store, host=options.host, port=options.port, token_auth=token_auth) as server:
        for path in archives:
            server.register(_model_name(path), path.name)
        print(
            _welcome(server.url, [_model_name(path) for path in archives], options.no_auth, server.key_file), flush=True
        )
        try:
            server.wait()
        except KeyboardInterrupt:
            print("stopping")


def _model_name(archive: Path) -> str:
    return archive.name.removesuffix(".mar")


def _welcome(url: str, models: Sequence[str], no_auth: bool, key_file: Path) -> str:
    lines = [f"ready: {url}/predictions/{model}" for model in models]
    header = ""
    if not no_auth:
        read = f"import json; print(json.load(open('{key_file}'))['inference']['key'])"
        lines += [f"tokens: {key_file}", "", f'TOKEN=$({sys.executable} -c "{read}")']
        header = '-H "Authorization: Bearer $TOKEN" '
    lines.append(
        f"curl -sS {url}/predictions/{models[0]} {header}-H 'Content-Type: application/json' "
        '-d \'{"prompt": "a red apple on blue"}\' -o apple.png'
    )
    return "\n".join([*lines, "", "Ctrl-C stops the server."])


def generate(options: argparse.Namespace) -> None:
    """Draw one picture, in this process or by a server."""
    from hybridstitch.serving.show import mask_overlay, report_lines

    if options.out.suffix.lower() not in FORMATS:
        raise InvalidInput([Problem("out", f"a file name ending in {', '.join(FORMATS)}", str(options.out))])
    payload = _payload(options)
    result = _ask_server(payload, options) if options.url else _draw_here(payload, options)
    options.out.write_bytes(result.image_bytes)
    if options.report:
        options.report.write_text(json.dumps(result.report, indent=2))
    if options.mask_overlay:
        mask_overlay(result.image, result.report).save(options.mask_overlay)
    print(json.dumps(result.report) if options.json else "\n".join(report_lines(result.report)))


def _payload(options: argparse.Namespace) -> dict[str, Any]:
    names = ["prompt", "negative_prompt", "seed", "recipe", "speed", "num_inference_steps", "guidance_scale"]
    names += ["width", "height"]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {**given, "output_format": FORMATS[options.out.suffix.lower()]}


def _ask_server(payload: dict[str, Any], options: argparse.Namespace) -> Result:
    try:
        token = json.loads(options.key_file.read_text())["inference"]["key"] if options.key_file else None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput([Problem("key-file", "the key_file.json of a server", str(options.key_file))]) from error
    return Client(options.url, token, timeout=600).generate(**payload, model=options.model)


def _draw_here(payload: dict[str, Any], options: argparse.Namespace) -> Result:
    from hybridstitch import HybridStitchPipeline
    from hybridstitch.serving.local import draw
    from hybridstitch.serving.request import parse_request
    from hybridstitch.serving.response import encode_picture

    pipeline = HybridStitchPipeline.from_pretrained(options.pair)
    request = parse_request(payload, {}, pipeline.size_limits, pipeline.catalogue)
    rendering = draw(pipeline, request)
    return Result(encode_picture(rendering.image, request), rendering.report, request.seed, {})


def recipes(options: argparse.Namespace) -> None:
    """List the named recipes, those that a pair was tuned to among them."""
    from hybridstitch.catalogue import Catalogue

    named = {name: recipe.to_dict() for name, recipe in Catalogue.load().of_pair(options.pair).recipes.items()}
    if options.json:
        print(json.dumps(named, indent=2))
        return
    for name, recipe in named.items():
        axes = (f"{axis}={_strategy_text(recipe[axis])}" for axis in ("plan", "mask", "fill"))
        steps = f"  at {recipe['step_share']:g} of the steps" if recipe["step_share"] < 1 else ""
        print(f"{name:<18}{'  '.join(axes)}{steps}")


def _strategy_text(strategy: dict[str, Any]) -> str:
    values = {name: _strategy_text(value) if isinstance(value, dict) else value for name, value in strategy.items()}
    parameters = ", ".join(f"{name}={value}" for name, value in values.items() if name != "type")
    return f"{strategy['type']}({parameters})" if parameters else strategy["type"]


def demo(options: argparse.Namespace) -> None:
    """Pack, serve, ask, and show the report."""
    from hybridstitch.serving.demo import run_demo

    run_demo(print, options.out, options.pair)


def _parser() -> argparse.ArgumentParser:
    root = Path(__file__).resolve().parents[1]
    pair = root / "models" / "emoji"
    parser = argparse.ArgumentParser(prog="hybridstitch", description=__doc__.splitlines()[0])
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "pack", pack)
    command.add_argument("--pair", type=Path, help="a packed pair folder")
    command.add_argument("--large", type=Path, help="a diffusers SD3 folder: the large model and the shared parts")
    command.add_argument("--small", type=Path, help="a diffusers SD3 folder: the small model")
    command.add_argument("--plain", action="store_true", help="the large model alone, drawn by diffusers itself")
    command.add_argument("--out", type=Path, default="model_store", help="the model store (%(default)s)")
    command.add_argument("--format", default="zip-store", help="zip-store, no-archive or default (%(default)s)")
    command.add_argument("--name", help="the model's name (hybridstitch, or plain with --plain)")
    command.add_argument("--version", default="1.0", help="the model's version (%(default)s)")
    command.add_argument("--config", type=Path, help="a model-config.yaml instead of the shipped one")
    command.add_argument("--recipes", type=Path, help="a file of `hybridstitch tune` (the one in the pair)")
    command.add_argument("--extra-module", type=Path, action="append", default=[], help="a Python file it names")

    command = _command(commands, "serve", serve)
    command.add_argument("--store", type=Path, default="model_store", help="the model store (%(default)s)")
    command.add_argument("--port", type=int, default=8080, help="for predictions; 0 picks free ones (%(default)s)")
    command.add_argument("--host", default="127.0.0.1", help="serve predictions at this address (%(default)s)")
    command.add_argument("--no-auth", action="store_true", help="serve without tokens")

    command = _command(commands, "generate", generate)
    command.add_argument("prompt")
    command.add_argument("--negative-prompt")
    command.add_argument("--seed", type=int)
    command.add_argument("--recipe", type=_name_or_json, help="a name, or a JSON object")
    command.add_argument(
        "--speed", type=float, help="instead of a recipe: so many times fewer FLOPs than the large model"
    )
    command.add_argument("--num-inference-steps", type=int)
    command.add_argument("--guidance-scale", type=float)
    command.add_argument("--width", type=int)
    command.add_argument("--height", type=int)
    command.add_argument("--out", type=Path, default="picture.png", help=".png, .jpg or .webp (%(default)s)")
    command.add_argument("--report", type=Path, help="write the report as JSON")
    command.add_argument("--mask-overlay", type=Path, help="write the picture with the large model's tokens tinted")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.add_argument("--pair", type=Path, default=pair, help="draw in this process with it (%(default)s)")
    command.add_argument("--url", help="let this server draw, for instance http://127.0.0.1:8080")
    command.add_argument("--model", default="hybridstitch", help="with --url: the model's name (%(default)s)")
    command.add_argument("--key-file", type=Path, help="with --url: the server's key_file.json")

    add_bench(commands, pair)
    add_tune(commands, pair)
    add_compare(commands)
    command = _command(commands, "recipes", recipes)
    command.add_argument("--json", action="store_true", help="fully resolved")
    command.add_argument("--pair", type=Path, default=pair, help="the pair (%(default)s)")

    command = _command(commands, "demo", demo)
    command.add_argument("--out", type=Path, default="demo", help="where the picture goes (%(default)s)")
    command.add_argument("--pair", type=Path, default=pair, help="the pair to pack (%(default)s)")
    return parser


def _command(commands: Any, name: str, run: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    command.set_defaults(run=run)
    return command


def _name_or_json(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else text


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

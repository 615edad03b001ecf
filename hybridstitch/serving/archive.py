"""One archive (MAR) that holds everything an endpoint needs: handler, package, settings and the models once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hybridstitch.catalogue import TUNED_FILE
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.pair import SMALL_FOLDER, check_folders, check_packed
from hybridstitch.serving.disk import require_space, size_text
from hybridstitch.serving.manifest import FIRST_VERSION, file_name, name_problems, read_archive
from hybridstitch.serving.settings import read_config

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("zip-store", "no-archive", "default")
HANDLERS = {False: "hybridstitch_handler.py", True: "plain_sd3_handler.py"}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

logger = logging.getLogger(__name__)


def pack(
    pair: str | Path | None = None,
    *,
    large: str | Path | None = None,
    small: str | Path | None = None,
    plain: bool = False,
    out: str | Path = "model_store",
    archive_format: str = "zip-store",
    name: str | None = None,
    version: str = FIRST_VERSION,
    recipes: str | Path | None = None,
    config: str | Path | None = None,
    extra_modules: Sequence[str | Path] = (),
) -> Path:
    """Write the archive of a version into the folder `out` and return its path; an older one of it is replaced.

    It is `name`.mar for version 1.0 and `name`-`version`.mar for others; for "no-archive" a folder, without ".mar".

    The models are a packed `pair` folder, or two diffusers SD3 folders `large` and `small`; `plain` packs the
    large model alone behind diffusers' own pipeline. `recipes` is what `hybridstitch tune` wrote, by default the
    file of that name in the pair. `config` replaces handler/model-config.yaml, and `extra_modules` are Python files
    that its dotted paths name. `name` is "hybridstitch", or "plain", by default.
    Raises InvalidInput for a bad name, folder, format or file, and for a file name that another model has; OSError
    with both numbers, before anything is written, if the disk is too small.
    """
    if name is None:
        name = "plain" if plain else "hybridstitch"
    config = Path(config or ROOT / "handler" / "model-config.yaml")
    handler = ROOT / "handler" / HANDLERS[plain]
    modules = [Path(module) for module in extra_modules]
    problems = [*_name_problems(name, version, archive_format), *_file_problems(handler, config, modules)]
    raise_if(problems)
    sources = _model_sources(pair, large, small, plain)
    if recipes is not None:
        sources[TUNED_FILE] = _tuned(Path(recipes))
    destination = Path(out).resolve()
    destination.mkdir(parents=True, exist_ok=True)
    final = destination / f"{file_name(name, version)}{'' if archive_format == 'no-archive' else '.mar'}"
    _keep_others(final, name, version)
    needed = _needed_space(sources)
    logger.info("packing needs %s on the disk of %s", size_text(needed), destination)
    require_space(destination, needed, "packing")
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=destination) as work:
        stage = Path(work, "stage")
        _stage(stage, handler, sources, modules)
        shutil.copy(config, stage / "model-config.yaml")
        _run_archiver(Path(work), handler.name, name, version, archive_format)
        built = next(Path(work, "out").iterdir())
        if final.is_dir():
            shutil.rmtree(final)
        built.replace(final)
    logger.info("packed %s", final)
    return final


def _name_problems(name: str, version: str, archive_format: str) -> list[Problem]:
    problems = [*name_problems("name", name), *name_problems("version", version)]
    if archive_format not in FORMATS:
        problems.append(Problem("format", f"one of: {', '.join(FORMATS)}", archive_format))
    return problems


def _keep_others(final: Path, name: str, version: str) -> None:
    """Refuse to replace another model's archive: version 2.0 of `a` and version 1.0 of `a-2.0` share a file name."""
    if not final.exists():
        return
    try:
        held = read_archive(final)
    except InvalidInput:
        if final.is_dir():  # whatever it holds, it is no archive
            raise
        return
    if (held.name, held.version) != (name, version):
        expected = f"another: {final.name} holds version {held.version} of {held.name}"
        raise InvalidInput([Problem("name", expected, name)])


def _file_problems(handler: Path, config: Path, modules: Sequence[Path]) -> list[Problem]:
    problems = []
    if not handler.is_file():
        expected = f"{handler.name} in {handler.parent}: pack from a checkout of the project"
        problems.append(Problem("handler", expected, "no such file"))
    try:
        read_config(config)
    except InvalidInput as error:
        problems += error.problems
    taken = {"hybridstitch", *(Path(file).stem for file in HANDLERS.values())}
    for module in modules:
        if module.suffix != ".py" or not module.stem.isidentifier() or not module.is_file():
            problems.append(Problem("extra-module", "an existing Python file", str(module)))
        elif module.stem in taken:
            problems.append(Problem("extra-module", f"a name other than {module.stem}", str(module)))
        taken.add(module.stem)
    return problems


def _model_sources(
    pair: str | Path | None, large: str | Path | None, small: str | Path | None, plain: bool
) -> dict[str, Path]:
    """What the archive's pair folder shall hold, by name, and where each of it is now."""
    if (pair is None) == (large is None):
        raise InvalidInput([Problem("pair", "either a pair folder or a large model", pair and str(pair))])
    if not plain and pair is None and small is None:
        raise InvalidInput([Problem("small", "a folder: without a pair, both large and small", None)])
    if small is not None and (plain or pair is not None):
        raise InvalidInput([Problem("small", "nothing: only a large model and not --plain needs it", str(small))])
    base = Path(pair or large or "")
    sources = _components(base)
    if small is not None:
        check_folders(base, Path(small))
        _refuse_pickles(Path(small))
        sources[SMALL_FOLDER] = Path(small, "transformer")
    elif plain:
        sources.pop(SMALL_FOLDER, None)
    else:
        check_packed(base)
    return sources


def _components(folder: Path) -> dict[str, Path]:
    """The parts of a diffusers folder: those that its index names, and what makes it a pair."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput([Problem("pair", "a diffusers folder with model_index.json", str(error))]) from error
    _refuse_pickles(folder)
    used = [part for part, entry in index.items() if isinstance(entry, list) and entry[0] is not None]
    missing = [part for part in used if not (folder / part).is_dir()]
    if missing:
        raise InvalidInput([Problem("pair", f"a folder with {', '.join(missing)}", str(folder))])
    optional = [part for part in (SMALL_FOLDER, "pair.json", TUNED_FILE) if (folder / part).exists()]
    return {part: folder / part for part in ["model_index.json", *used, *optional]}


def _tuned(path: Path) -> Path:
    """The path, if `hybridstitch tune` wrote what is there; the recipes themselves are checked when it is loaded."""
    try:
        if "points" in json.loads(path.read_text()):
            return path
    except (OSError, ValueError, TypeError):
        pass
    raise InvalidInput([Problem("recipes", "a file that `hybridstitch tune` wrote", str(path))])


def _refuse_pickles(folder: Path) -> None:
    """Loading a pickle runs what is inside it, so none gets into an archive."""
    found = [file for file in _files(folder) if file.suffix.lower() in PICKLED]
    raise_if([Problem("pair", "weights as safetensors only", str(file.relative_to(folder))) for file in found])


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [Path(root, file) for root, _, files in os.walk(path, followlinks=True) for file in files]


def _needed_space(sources: dict[str, Path]) -> int:
    """Bytes: in every format, a folder too, the archiver gathers a copy of everything and then writes another."""
    size = sum(file.stat().st_size for source in sources.values() for file in _files(source))
    return 2 * size + 2**24


def _stage(stage: Path, handler: Path, sources: dict[str, Path], modules: Sequence[Path]) -> None:
    """Lay out the archive's content; the models as links, which the archiver follows."""
    models = stage / "pair"
    models.mkdir(parents=True)
    for name, source in sources.items():
        (models / name).symlink_to(source.resolve())
    shutil.copytree(ROOT / "hybridstitch", stage / "hybridstitch", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (handler, *modules):
        shutil.copy(file, stage)


def _run_archiver(work: Path, handler: str, name: str, version: str, archive_format: str) -> None:
    """Run the archiver in `work` with its own temporary folder, since it builds under a name that is not unique."""
    for folder in ("temporary", "out"):
        (work / folder).mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    command += ["--model-name", name, "--version", version, "--archive-format", archive_format]
    command += ["--handler", f"stage/{handler}", "--config-file", "stage/model-config.yaml"]
    command += ["--extra-files", "stage", "--export-path", "out"]
    environment = {**os.environ, "TMPDIR": str(work / "temporary")}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"torch-model-archiver failed: {done.stderr.strip()[-2000:]}")

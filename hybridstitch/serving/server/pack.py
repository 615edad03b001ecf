"""Packs an archive (MAR) with all that an endpoint needs: handler, package, settings and the models once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridstitch.base import paths
from hybridstitch.base.extra_modules import importable, module_problems
from hybridstitch.base.extras import require
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.files import ModelFiles
from hybridstitch.model.lora_files import Fused, write_fused
from hybridstitch.model.pair import WORTHWHILE, SizeLimits, check_fit, cost_ratio, cost_sentence, find_files
from hybridstitch.model.quantise import absence_problems
from hybridstitch.model.skeleton import build_skeleton
from hybridstitch.model.sources import source_problems
from hybridstitch.recipe.names import TUNED_FILE
from hybridstitch.serving.config import read_config
from hybridstitch.serving.manifest import FIRST_VERSION, HANDLERS, archive_paths, file_name, name_problems, read_archive
from hybridstitch.serving.section import SECTION
from hybridstitch.serving.server.disk import require_space, size_text
from hybridstitch.serving.server.pack_loras import add_loras, check_loras, loras_of
from hybridstitch.serving.server.pack_models import add_models, needed_space
from hybridstitch.serving.settings import PAIR_FOLDER, check_defaults, load_catalogue, quality_table

FORMATS = ("zip-store", "no-archive", "default", "link")
IN_FOLDERS = ("no-archive", "link")
"""Formats whose archive is a folder."""
NOT_FOR_WORKERS = (
    *("bench", "cli", "compare", "html", "measure", "testing", "tune"),
    *("serving/doctor", "serving/ray", "serving/server"),
    paths.IN_WHEEL.name,
)
"""Folders of the package that an archive does not carry."""

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
    variant: str | None = None,
    without: Sequence[str] = (),
    loras: Sequence[Fused] = (),
    force: bool = False,
) -> Path:
    """Write the archive of one version of a model and return its path. An older archive of the version is replaced.

    The file is `name`.mar for version 1.0 and `name`-`version`.mar for others. It holds only files that the loader
    reads, under their names without a variant.

    Args:
        pair: Folder of a packed pair.
        large: Instead of `pair`, a diffusers SD3 folder or hub id: the large model and the shared parts.
        small: Beside `large`, a diffusers SD3 folder or hub id: the small model, of which `transformer` is enough.
        plain: Whether to pack the large model alone, in diffusers' own pipeline.
        out: Folder that the archive is written to, the model store.
        archive_format: "zip-store", "default" (compressed), "no-archive" (a folder, without ".mar") or "link" (a
            folder whose weights are links to the sources).
        name: The model's name. None: "hybridstitch", or "plain" with `plain`.
        version: The model's version.
        recipes: File that `hybridstitch tune` wrote. None: the file of that name in the pair, if there is one.
        config: A model-config.yaml. None: the one of handler/.
        extra_modules: Python files that dotted paths of `config` name.
        variant: Variant of the weights, such as "fp16", for the parts that have it.
        without: Parts to leave out: "text_encoder_3", the largest text encoder.
        loras: LoRA adapters that the worker adds to the weights of their models when it loads them.
        force: Whether to replace an archive of another kind or model with this name, version or file name.

    Raises:
        InvalidInput: For all that a worker could not start with, each under its name: a bad name, folder, format,
            setting or file, and weights that are absent, cut off or of another shape than their configuration. Also
            for an archive of another kind or model that would be replaced.
        OSError: If the disk is too small. Nothing has been written by then.
    """
    if name is None:
        name = "plain" if plain else "hybridstitch"
    config = Path(config or paths.HANDLERS / "model-config.yaml")
    handler = paths.HANDLERS / HANDLERS[plain]
    modules = [Path(module) for module in extra_modules]
    problems = [*_name_problems(name, version, archive_format), *_file_problems(config, modules)]
    raise_problems(problems + _out_problems(Path(out), file_name(name, version)))
    require("model_archiver", "serve", "torch-model-archiver")
    found = _find_models(pair, large, small, plain, variant, without)
    if recipes is not None and found.add_json(TUNED_FILE, Path(recipes)) is None:
        raise InvalidInput([Problem("recipes", "a file that `hybridstitch tune` wrote", str(recipes))])
    destination = Path(out).resolve()
    destination.mkdir(parents=True, exist_ok=True)
    final = destination / f"{file_name(name, version)}{'' if archive_format in IN_FOLDERS else '.mar'}"
    replaced = _replaced(final, name, version, handler.name, force)
    section = read_config(config).get(SECTION) or {}
    fused = add_loras(found, pair, loras, loras_of(section, config), plain)
    models = {name: path.resolve() for name, path in found.files.items()}
    needed = needed_space([*models.values()], archive_format)
    logger.info("packing needs %s on the disk of %s", size_text(needed), destination)
    require_space(destination, needed, "packing")
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=destination) as work:
        stage = Path(work, "stage")
        _stage(stage, handler, config, modules)
        linked = _link_models(Path(work, "linked", PAIR_FOLDER), models, found)
        write_fused(linked, fused)
        _check_start(linked, config, found, modules, plain)
        built = _run_archiver(Path(work), handler.name, name, version, archive_format)
        add_models(built, linked, archive_format)
        for path in replaced:
            logger.info("replacing %s", path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        built.replace(final)
    logger.info("packed %s", final)
    return final


def _name_problems(name: str, version: str, archive_format: str) -> list[Problem]:
    problems = [*name_problems("name", name), *name_problems("version", version)]
    if archive_format not in FORMATS:
        problems.append(Problem("format", f"one of: {', '.join(FORMATS)}", archive_format))
    return problems


def _out_problems(out: Path, name: str) -> list[Problem]:
    if not (out.is_file() or (out.suffix == ".mar" and not out.is_dir())):
        return []
    return [Problem("out", f"a folder, the model store; the archive in it is called {name}.mar", str(out))]


def _replaced(final: Path, name: str, version: str, handler: str, force: bool) -> list[Path]:
    """What the archive replaces: a file of its name, or a folder of that name from another format.

    Version 2.0 of `a` and version 1.0 of `a-2.0` share a file name.

    Raises:
        InvalidInput: Without `force`, for an archive of another kind or another model.
    """
    replaced, problems = [], []
    plain_name = file_name(name, version)
    for path in (final.with_name(f"{plain_name}.mar"), final.with_name(plain_name)):
        if path != final and path not in archive_paths(final.parent):
            continue
        try:
            held = read_archive(path)
        except InvalidInput:
            if path.is_dir():  # whatever it holds, it is no archive
                raise
            held = None
        if path.exists():
            replaced.append(path)
        if held and (held.name, held.version, held.handler) != (name, version, handler):
            expected = f"another: {path.name} holds version {held.version} of {held.name} behind {held.handler}"
            problems.append(Problem("name", f"{expected}; --force replaces it", name))
    if not force:
        raise_problems(problems)
    return replaced


def _file_problems(config: Path, modules: Sequence[Path]) -> list[Problem]:
    problems = module_problems(modules, ["hybridstitch", *(Path(file).stem for file in HANDLERS.values())])
    try:
        read_config(config)
    except InvalidInput as error:
        problems = [*error.problems, *problems]
    return problems


def _find_models(
    pair: str | Path | None,
    large: str | Path | None,
    small: str | Path | None,
    plain: bool,
    variant: str | None,
    without: Sequence[str],
) -> ModelFiles:
    """The files of the archive's pair folder: the parts of the models, and what makes them a pair."""
    raise_problems(source_problems(pair, large, small, plain))
    found = find_files(pair, large, small, variant=variant, without=without, plain=plain)
    if pair is not None:
        for name in (paths.PAIR_FILE, TUNED_FILE):
            if Path(pair, name).exists():
                found.add_json(name, Path(pair, name))
        raise_problems(found.problems)
    if not plain:
        check_fit(found)
    return found


def _check_start(pair: Path, config: Path, found: ModelFiles, modules: Sequence[Path], plain: bool) -> None:
    """Raise InvalidInput for what a worker would not start with. Weights are not read."""
    pipeline, small = build_skeleton(pair, found)
    section = read_config(config).get(SECTION) or {}
    names = check_loras(found, {"large": pipeline.transformer, "small": small})
    encoder = {"text_encoder_3": pipeline.text_encoder_3}
    raise_problems(absence_problems(section.get("quantise"), encoder, f"{SECTION}.quantise"))
    catalogue = None
    with importable(modules):
        if not plain:
            catalogue = load_catalogue(section.get("strategies"))
            if TUNED_FILE in found.files:
                catalogue = catalogue.with_tuned(found.files[TUNED_FILE])
            quality_table(section.get("quality") or {}, catalogue)
            ratio = cost_ratio(pipeline, small)
            logger.log(logging.INFO if ratio >= WORTHWHILE else logging.WARNING, cost_sentence(ratio))
        check_defaults(
            section.get("defaults") or {},
            SizeLimits.of(pipeline, small),
            catalogue,
            loras=sorted({*names, *(section.get("loras") or {})}),
        )


def _stage(stage: Path, handler: Path, config: Path, modules: Sequence[Path]) -> None:
    """Lay out the content of the archive without the models."""
    shutil.copytree(paths.PACKAGE, stage / "hybridstitch", ignore=_not_for_workers)
    shutil.copy(config, stage / "model-config.yaml")
    for file in (handler, *modules):
        shutil.copy(file, stage)


def _link_models(folder: Path, models: Mapping[str, Path], found: ModelFiles) -> Path:
    """Lay out the pair's folder, with links to the files, and an index without the parts that are left out."""
    for name, path in models.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path)
    if found.without:
        (folder / paths.INDEX).unlink()
        (folder / paths.INDEX).write_text(json.dumps(found.index, indent=2))
    return folder


def _not_for_workers(folder: str, names: list[str]) -> set[str]:
    """The names in a folder of the package that no worker imports."""
    inside = Path(folder).relative_to(paths.PACKAGE)
    return {name for name in names if name == "__pycache__" or (inside / name).as_posix() in NOT_FOR_WORKERS}


def _run_archiver(work: Path, handler: str, name: str, version: str, archive_format: str) -> Path:
    """Run the archiver on what is staged below `work` and return what it built.

    Its temporary folder is below `work`, too, because the name that it builds under is not unique.
    """
    for folder in ("temporary", "out"):
        (work / folder).mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    built_format = "no-archive" if archive_format in IN_FOLDERS else archive_format
    command += ["--model-name", name, "--version", version, "--archive-format", built_format]
    command += ["--handler", f"stage/{handler}", "--config-file", "stage/model-config.yaml"]
    command += ["--extra-files", "stage", "--export-path", "out"]
    environment = {**os.environ, "TMPDIR": str(work / "temporary")}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"torch-model-archiver failed: {done.stderr.strip()[-2000:]}")
    return next((work / "out").iterdir())

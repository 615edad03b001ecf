"""The settings of a worker, and whether they fit the pair that it serves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.serving.config import compile_of, config_problems
from hybridstitch.serving.section import DTYPES, QUALITIES, SECTION

if TYPE_CHECKING:
    import torch

    from hybridstitch.model.lora import Adapters
    from hybridstitch.model.pair import SizeLimits
    from hybridstitch.recipe.catalogue import Catalogue

PAIR_FOLDER = "pair"  # where an archive keeps the models
PICTURES_PER_FORWARD = 8
PROMPT_CACHE_MIB = 64
OF_STITCHING = ("recipe", "speed", "region", "previews")
"""Defaults that the plain endpoint ignores. It is packed with the same settings."""


@dataclass(frozen=True)
class Settings:
    """The settings of a worker, from TorchServe and from the `handler:` section of model-config.yaml.

    Attributes:
        folder: The pair in the unpacked archive.
        device: Where the models run.
        dtype: Type of the weights. None: chosen when the models are loaded, see `hybridstitch.model.dtype`.
        defaults: Values for the fields that a request omits.
        strategies: By axis, the operator's strategies as `module:Class`.
        compile: `blocks` compiles the transformers at the start.
        compile_cache: The folder where torch keeps compiled code between starts; None for its own choice.
        explanations: Whether the endpoint explains pictures.
        mark: Whether pictures carry the mark of generated media.
        quality: By name, the speed that an OpenAI client's `quality` stands for; None for the default recipe. As read,
            the operator's entries alone; `quality_table` adds the others once the pair is loaded.
        pictures_per_forward: The most pictures of a batch that share a forward.
        max_response_bytes: The longest answer. None: as long as the server takes.
        quantise: By part, the kind of its weights, or None for weights as stored.
        loras: By name, the files of the adapters that a request may name, by model. The archive has them.
        max_memory_mib: The memory that the worker plans with, if less is to be used than is free.
        prompt_cache_mib: The size of the cache of prompt embeddings. 0: none.
        text_encoders: Where the text encoders are: `device`, `cpu` or `offload`.
        offload: What waits on the CPU for its turn: `none`, `model` or `group`.
        workers: The number of workers of the model, which share the memory.
        small_device: Where the small model runs; None for `device`.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype | None
    defaults: Mapping[str, Any]
    strategies: Mapping[str, Any] | None
    compile: str = "none"
    compile_cache: str | None = None
    explanations: bool = True
    mark: bool = True
    quality: Mapping[str, float | None] = field(default_factory=dict)
    pictures_per_forward: int = PICTURES_PER_FORWARD
    max_response_bytes: int | None = None
    quantise: Mapping[str, str | None] | None = None
    loras: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    max_memory_mib: int | None = None
    prompt_cache_mib: int = PROMPT_CACHE_MIB
    text_encoders: str = "device"
    offload: str = "none"
    workers: int = 1
    small_device: torch.device | None = None

    @property
    def is_offloaded(self) -> bool:
        """Whether some parts wait, or stay, on the CPU."""
        return (self.text_encoders, self.offload) != ("device", "none")


def read_settings(config: Mapping[str, Any], folder: Path, gpu: int | None) -> Settings:
    """The settings of a worker.

    Args:
        config: The content of model-config.yaml.
        folder: The unpacked archive.
        gpu: The number of the CUDA device; None for the CPU.

    Raises:
        InvalidInput: With every wrong key of model-config.yaml.
    """
    import torch

    raise_problems(config_problems(config))
    section = {name: value for name, value in (config.get(SECTION) or {}).items() if value is not None}
    section["compile"] = compile_of(config)
    usual = torch.device("cpu" if gpu is None or not torch.cuda.is_available() else f"cuda:{gpu}")
    device, small_device = found_devices(section.pop("devices", None)) or (usual, None)
    return Settings(
        folder=folder / PAIR_FOLDER,
        device=device,
        small_device=small_device,
        dtype=getattr(torch, section.pop("dtype", DTYPES[0]), None),
        defaults=section.pop("defaults", {}),
        strategies=section.pop("strategies", None),
        workers=max(config.get("minWorkers") or 1, config.get("maxWorkers") or 1),
        **section,
    )


def found_devices(names: list[str] | None) -> list[torch.device]:
    """The devices of these names; none for None. Raises InvalidInput for one that this machine lacks."""
    import torch

    problems = []
    for name in names or []:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            expected = f"a device that torch finds here ({str(error).splitlines()[0]})"
            problems.append(Problem(f"{SECTION}.devices", expected, name))
    raise_problems(problems)
    return [torch.device(name) for name in names or []]


def load_catalogue(strategies: Mapping[str, Any] | None) -> Catalogue:
    """The catalogue with the strategies of the section. Raises InvalidInput with the path of each wrong key."""
    from hybridstitch.recipe.catalogue import Catalogue

    try:
        return Catalogue.load(strategies)
    except InvalidInput as error:
        raise InvalidInput(under(SECTION, error)) from error


def check_defaults(
    defaults: Mapping[str, Any],
    limits: SizeLimits,
    catalogue: Catalogue | None,
    section: str = f"{SECTION}.defaults",
    loras: Collection[str] = (),
) -> None:
    """Validate defaults as if a request had sent them.

    Args:
        defaults: By field, the value.
        limits: The sizes that the pair can generate.
        catalogue: The recipes that requests may name. None, for the plain endpoint: fields of stitching are ignored.
        section: Where the defaults stand, for messages.
        loras: The names of the adapters that requests may name.

    Raises:
        InvalidInput: With every default that a request could not send.
    """
    from hybridstitch.wire.request import parse_request

    sent = {name: value for name, value in defaults.items() if value is not None}
    if catalogue is None:
        sent = without_stitching(sent)
    try:
        parse_request({"prompt": "any", **sent}, {}, limits, catalogue, loras=loras)
    except InvalidInput as error:
        raise InvalidInput(under(section, error)) from None


def quality_table(given: Mapping[str, float | None], catalogue: Catalogue) -> dict[str, float | None]:
    """The speed of each quality that an OpenAI client may name; None for the default recipe.

    Args:
        given: The operator's entries. Other names have their default, or the highest speed of the pair if that is
            lower.
        catalogue: The recipes of the pair.

    Raises:
        InvalidInput: For a given speed that the pair does not have.
    """
    problems = []
    for name, speed in given.items():
        if speed is not None:
            problems += catalogue.speed_problems(speed, f"{SECTION}.quality.{name}")
    raise_problems(problems)
    usual = {name: speed and min(speed, catalogue.fastest) for name, speed in QUALITIES.items()}
    return {**usual, **given}


def check_packed_loras(loras: Mapping[str, Mapping[str, str]], adapters: Adapters) -> None:
    """Raise InvalidInput for an adapter that the settings name and the archive does not have."""
    held = {(name, model) for name, each in adapters.describe().items() for model in each["models"]}
    raise_problems(
        [
            Problem(f"{SECTION}.loras.{name}.{model}", "a file in the archive: pack it again after a change", file)
            for name, files in loras.items()
            for model, file in files.items()
            if model in adapters.models and (name, model) not in held
        ]
    )


def without_stitching(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that have a meaning for the plain endpoint."""
    return {name: value for name, value in defaults.items() if name not in OF_STITCHING}


def under(section: str, error: InvalidInput) -> list[Problem]:
    """The problems of an error, with the section before each field."""
    return [Problem(f"{section}.{each.field}", each.expected, each.got) for each in error.problems]

"""What fits into the memory of a worker: the weights, and how many pictures of which size beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.base.sizes import size_text
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.generation import Generation
from hybridstitch.model.free_memory import free_memory, total_memory
from hybridstitch.model.lora_files import named_in
from hybridstitch.model.memory import LARGE, MemoryPlan

if TYPE_CHECKING:
    import torch

    from hybridstitch.serving.settings import Settings

RESERVED_SHARE = 0.05
"""Share of the free memory that a plan leaves: for fragments of the allocator and workspaces of the libraries."""
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
GROUPED_SHARE = 0.1
"""Share of a transformer that is on the device at once where it is offloaded block by block, of 24 to 38 in SD3."""


@dataclass(frozen=True)
class Capacity:
    """The memory of one worker, planned before anything is loaded.

    Attributes:
        plan: the needs of the models.
        dtype: of the weights.
        device: where the models run.
        free: bytes that the worker may use.
        text_encoders: where they are: `device`, `cpu` or `offload`.
        offload: `none`, `model` or `group`: which parts wait on the CPU for their turn.
        int8: the parts whose linear layers are quantised.
        lora: bytes of the adapters that a request may name.
        small_free: bytes that the worker may use on the device of the small model; None if that is `device`.
    """

    plan: MemoryPlan
    dtype: str
    device: str
    free: int
    text_encoders: str = "device"
    offload: str = "none"
    int8: frozenset[str] = frozenset()
    lora: int = 0
    small_free: int | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """By part, the bytes of its weights; those of adapters under `lora`."""
        return self.plan.weight_bytes(self.dtype, self.int8) | ({"lora": self.lora} if self.lora else {})

    def _is_mapped(self, part: str) -> bool:
        weights = self.plan.weights.get(part)
        return part not in self.int8 and weights is not None and weights.is_stored_as(self.dtype)

    @property
    def weights(self) -> dict[str, int]:
        """By part, the bytes of weights that are on the device while it generates.

        A CPU maps the files of parts that are stored in the dtype; the kernel drops such pages on demand.
        """
        sizes = dict(self.sizes)
        if self.small_free is not None:
            sizes[SMALL_FOLDER] = 0
        if self.device == "cpu":
            return {part: 0 if self._is_mapped(part) else size for part, size in sizes.items()}
        if self.text_encoders != "device":
            sizes |= {part: 0 for part in ENCODERS if part in sizes}
        if self.offload == "group":
            return {
                part: int(GROUPED_SHARE * size) if part in (LARGE, SMALL_FOLDER) else size
                for part, size in sizes.items()
            }
        if self.offload == "model":  # one part at a time
            largest = max(sizes, key=lambda part: sizes[part])
            return {part: size if part == largest else 0 for part, size in sizes.items()}
        return sizes

    @property
    def room(self) -> int:
        """Bytes for pictures: what is free without the reserve and the weights. Below 0, not even the weights fit."""
        return int((1 - RESERVED_SHARE) * self.free) - sum(self.weights.values())

    def pictures(self, width: int, height: int, guided: bool = True, cached: tuple[str, ...] = (LARGE,)) -> int:
        """The most pictures of this size that fit into one forward."""
        how = (self.dtype, width, height, guided)
        if self.small_free is None:
            return max(self.room, 0) // self.plan.picture_bytes(*how, cached)
        own = tuple(part for part in cached if part != SMALL_FOLDER)
        there = self.plan.step_bytes(SMALL_FOLDER, *how)
        there += self.plan.kv_bytes(SMALL_FOLDER, *how) if own != cached else 0
        return min(max(self.room, 0) // self.plan.picture_bytes(*how, own), max(self.small_room, 0) // there)

    @property
    def small_room(self) -> int:
        """Bytes for pictures on the separate device of the small model."""
        return int((1 - RESERVED_SHARE) * (self.small_free or 0)) - self.sizes.get(SMALL_FOLDER, 0)

    @property
    def largest_side(self) -> int:
        """The largest side of a square picture that fits, under guidance and with one K/V cache; 0 if none does."""
        return self.plan.largest_side(self.room, self.dtype)

    def pictures_of(self, generation: Generation) -> int:
        """The most pictures of a generation that fit into one forward."""
        return self.pictures(generation.width, generation.height, generation.guided, _cached(generation))

    def problems(self, generation: Generation) -> list[Problem]:
        """What does not fit of a generation, whose pictures share a forward."""
        most = self.pictures_of(generation)
        if generation.pictures <= most:
            return []
        width, height = generation.width, generation.height
        if most:
            expected = f"at most {most} at {width}x{height}: the memory of the worker holds no more"
            return [Problem("num_images", expected, generation.pictures)]
        needed = self.plan.picture_bytes(self.dtype, width, height, generation.guided, _cached(generation))
        limit = self.plan.largest_side(self.room, self.dtype)
        expected = (
            f"a smaller size, at most about {limit}x{limit}: this picture needs {size_text(needed)} of memory, "
            f"and the worker has {size_text(max(self.room, 0))}"
        )
        side = "width" if width >= height else "height"
        return [Problem(side, expected, max(width, height))]

    def check(self) -> None:
        """Raise InvalidInput, with what to do, if the weights and the smallest picture do not fit."""
        side = self.plan.limits.minimum
        if self.pictures(side, side):
            return
        if self.small_free is not None and self.small_room < self.plan.step_bytes(SMALL_FOLDER, self.dtype, side, side):
            expected = f"{size_text(self.sizes[SMALL_FOLDER])} for the weights of the small model in {self.dtype}"
            free = f"{size_text(self.small_free)} free"
            raise InvalidInput([Problem("memory of the device of the small model", expected, free)])
        weights, picture = sum(self.weights.values()), self.plan.picture_bytes(self.dtype, side, side)
        expected = (
            f"{size_text(weights)} for the weights in {self.dtype} and {size_text(picture)} for a picture of "
            f"{side}x{side}; {self.advice}"
        )
        raise InvalidInput([Problem(f"memory of {self.device}", expected, f"{size_text(self.free)} free")])

    @property
    def advice(self) -> str:
        """What makes the weights smaller, the cheapest first."""
        found = []
        if self.dtype == "float32":
            found.append("handler.dtype bfloat16")
        if self.device != "cpu" and self.text_encoders == "device":
            found.append("handler.text_encoders offload")
        if self.device != "cpu" and self.offload == "none":
            found.append("handler.offload group")
        if "text_encoder_3" in self.plan.weights:
            found.append("packing without text_encoder_3")
        return f"needs less with {', '.join(found)}" if found else "needs a device with more memory"

    def describe(self, most: int) -> dict[str, Any]:
        """The limits as JSON. most: the operator's `pictures_per_forward`."""
        width, height = self.plan.limits.default
        return {
            "free_bytes": self.free,
            "weights_bytes": sum(self.weights.values()),
            "picture_bytes": self.plan.picture_bytes(self.dtype, width, height),
            "pictures_per_forward": min(most, self.pictures(width, height)),
            "largest_square": self.largest_side,
        }


def _cached(generation: Generation) -> tuple[str, ...]:
    """The transformers that keep keys and values."""
    recipe = generation.recipe
    if recipe is None:
        return ()
    masked = recipe.plan.masked or generation.region is not None
    return ((LARGE,) if masked else ()) + ((SMALL_FOLDER,) if recipe.fill.cached else ())


def quantised_parts(quantise: Mapping[str, str | None] | None) -> frozenset[str]:
    """The parts that a setting `quantise` names, by diffusers' names."""
    names = {"large": LARGE, "small": SMALL_FOLDER}
    return frozenset(names.get(part, part) for part, kind in (quantise or {}).items() if kind)


def lora_bytes(folder: Path | None) -> int:
    """Bytes of the adapters in a packed pair that a request may name."""
    return sum(path.stat().st_size for files in named_in(folder).values() for path in files.values())


def share_memory(one: torch.device, other: torch.device | None) -> bool:
    """Whether two devices have the same memory; None for the same device."""
    return other is None or (one.type, one.index or 0) == (other.type, other.index or 0)


def plan_worker(settings: Settings, plain: bool) -> Capacity:
    """The memory of a worker that is about to load its models.

    Workers of one model share a device evenly, since each may generate at any time.

    Args:
        settings: Of the worker. Without a dtype, the one is planned that the loader would choose.
        plain: Whether the worker loads the large model alone.
    """
    from hybridstitch.model.dtype import choose_dtype, dtype_name
    from hybridstitch.model.pair import find_files

    found, small = find_files(settings.folder, None, None, plain=plain), settings.small_device
    free = _free_for(settings, settings.device)
    dtype = settings.dtype or choose_dtype(found, settings.device, int((1 - RESERVED_SHARE) * free))
    apart = not plain and not share_memory(settings.device, small)
    return Capacity(
        MemoryPlan.of(found),
        dtype_name(dtype),
        str(settings.device),
        free,
        "device" if plain else settings.text_encoders,  # diffusers' own pipeline has them on one device
        settings.offload,
        quantised_parts(settings.quantise),
        lora_bytes(settings.folder),
        _free_for(settings, small) if small is not None and apart else None,
    )


def _free_for(settings: Settings, device: torch.device) -> int:
    """Bytes of a device that one worker may use."""
    import torch

    # TorchServe spreads workers over the GPUs, but devices that the settings name are those of every worker.
    spread = device.type == "cuda" and settings.small_device is None
    share = total_memory(str(device)) // math.ceil(settings.workers / (torch.cuda.device_count() if spread else 1))
    limit = share if settings.max_memory_mib is None else min(share, settings.max_memory_mib * 2**20)
    return min(free_memory(str(device)), limit)

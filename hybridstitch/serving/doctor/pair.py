"""Examines whether a pair fits this machine, from its configurations and the headers of its files alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridstitch.base.sizes import size_text
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.capacity import RESERVED_SHARE, Capacity, lora_bytes, quantised_parts, share_memory
from hybridstitch.serving.doctor.machine import Finding
from hybridstitch.serving.section import SECTION
from hybridstitch.serving.server.java_and_ports import temporary_base
from hybridstitch.serving.settings import PICTURES_PER_FORWARD, found_devices


def examine_pair(
    folder: Path | None,
    large: str | Path | None,
    small: str | Path | None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    config: Mapping[str, Any] | None = None,
    store: Path = Path("model_store"),
    files: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Examine what a pair needs of memory and disk, and what is free.

    Args:
        folder: A packed pair; None for `large` and `small`.
        large, small: Folders of SD3 pipelines.
        device: Where the models would run; by default the devices of `config`, and without them a GPU if there is one.
        dtype: Of the weights; by default that of `config`, and without one what a worker would choose.
        config: The content of a model-config.yaml, for the settings of `handler:`.
        store: Where an archive would be packed to.
        files: Further arguments of `find_files`, such as `variant`.

    Returns:
        A finding each for the files, the weights, the pictures, the moment of loading and the disk. The first one that
        failed is the last one where the files cannot be read.
    """
    import torch

    from hybridstitch.model.dtype import choose_dtype, dtype_name
    from hybridstitch.model.free_memory import free_memory
    from hybridstitch.model.memory import MemoryPlan
    from hybridstitch.model.pair import check_fit, find_files

    settings = dict((config or {}).get(SECTION) or {})
    places = found_devices(settings.get("devices") if device is None else None)
    device = device or str(next(iter(places), "cuda:0" if torch.cuda.is_available() else "cpu"))
    try:
        found = find_files(folder, large, small, **(files or {}))
        check_fit(found)
    except InvalidInput as error:
        return [Finding(each.field, False, f"expected {each.expected}, got {each.got}") for each in error.problems]
    dtype = dtype or settings.get("dtype") or "auto"
    most_free = 2**20 * (settings.get("max_memory_mib") or 2**40)
    free = min(free_memory(device), most_free)
    room = int((1 - RESERVED_SHARE) * free)
    chosen = dtype_name(choose_dtype(found, torch.device(device), room)) if dtype == "auto" else dtype
    placed = {name: settings[name] for name in ("text_encoders", "offload") if settings.get(name)}
    int8 = quantised_parts(settings.get("quantise"))
    capacity = Capacity(MemoryPlan.of(found), chosen, device, free, **placed, int8=int8, lora=lora_bytes(folder))
    if places and not share_memory(*places):
        capacity = replace(capacity, small_free=min(free_memory(str(places[1])), most_free))
    most = settings.get("pictures_per_forward") or PICTURES_PER_FORWARD
    size = sum(path.stat().st_size for path in found.files.values())
    return [
        Finding("files", True, f"{len(found.files)} files, {size_text(size)}: all whole, and the models fit together"),
        _examine_weights(capacity, "chosen for this device" if dtype == "auto" else "as set"),
        _examine_pictures(capacity, most),
        _examine_sizes(capacity),
        _examine_loading(capacity),
        _examine_disk(size, store),
    ]


def _examine_weights(capacity: Capacity, why: str) -> Finding:
    sizes, kept = capacity.sizes, capacity.weights
    parts = ", ".join(f"{part} {size_text(size)}{_place(size, kept[part], capacity)}" for part, size in sizes.items())
    detail = (
        f"{size_text(sum(sizes.values()))} in {capacity.dtype} ({why}): {parts}; "
        f"{size_text(sum(kept.values()))} of {size_text(capacity.free)} free on {capacity.device}"
    )
    if capacity.small_free is not None:
        detail += f"; those of the small model on their own device, with {size_text(capacity.small_free)} free"
    if capacity.room < 0 or (capacity.small_free is not None and capacity.small_room < 0):
        return Finding("weights", False, detail, capacity.advice)
    if capacity.device == "cpu" and sum(sizes.values()) > capacity.free:
        return Finding(
            "weights", True, f"{detail}; the files do not stay in memory: every step reads them from the disk"
        )
    return Finding("weights", True, detail)


def _place(size: int, kept: int, capacity: Capacity) -> str:
    if size == kept:
        return ""
    if capacity.small_free is not None and kept == 0 and capacity.device != "cpu":
        return " (on its own device)"
    return " (mapped from the files)" if capacity.device == "cpu" else f" ({size_text(kept)} of it on the device)"


def _examine_pictures(capacity: Capacity, most: int) -> Finding:
    width, height = capacity.plan.limits.default
    plan, fitting = capacity.plan, capacity.pictures(width, height)
    caches = {part: plan.kv_bytes(part, capacity.dtype, width, height) for part in plan.transformers}
    detail = (
        f"a guided picture of {width}x{height}: K/V cache {size_text(caches[plan.transformers[0]])}"
        + "".join(f" (small model, fill small-rest alone: {size_text(caches[part])})" for part in plan.transformers[1:])
        + f", activations {size_text(plan.activation_bytes(capacity.dtype, width, height))}; "
        f"{min(fitting, most)} of {most} pictures_per_forward fit into {size_text(max(capacity.room, 0))}"
    )
    return Finding("pictures", fitting > 0, detail, "" if fitting else capacity.advice)


def _examine_sizes(capacity: Capacity) -> Finding:
    limits, largest = capacity.plan.limits, capacity.largest_side
    detail = f"squares of {limits.minimum} to {limits.maximum} pixels by the models, up to {largest} by the memory"
    return Finding("sizes", largest > 0, detail, "" if largest else capacity.advice)


def _examine_loading(capacity: Capacity) -> Finding:
    from hybridstitch.model.free_memory import free_memory

    free, passing = free_memory("cpu"), capacity.plan.loading_bytes()
    detail = f"{size_text(passing)} of memory for a moment beside the weights, {size_text(free)} are free"
    return Finding("loading", passing <= free, detail, "" if passing <= free else "free memory of other programs")


def _examine_disk(size: int, store: Path) -> Finding:
    """Whether the usual archive and its unpacked copy have room."""
    at = next(each for each in (store, *store.absolute().parents) if each.exists())
    temporary, _ = temporary_base()
    free, unpacked = shutil.disk_usage(at).free, shutil.disk_usage(temporary).free
    detail = (
        f"pack needs {size_text(size)} below {store} ({size_text(free)} free); a .mar also needs {size_text(size)} "
        f"below {temporary} where it is served ({size_text(unpacked)} free); pack --format link needs neither"
    )
    needed = 2 * size if os.stat(at).st_dev == os.stat(temporary).st_dev else size
    ok = needed <= free and size <= unpacked
    return Finding("disk", ok, detail, "" if ok else "pack --format link, or --out and TMPDIR on larger disks")

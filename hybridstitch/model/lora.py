"""LoRA adapters on the models of a pair, through peft and diffusers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from hybridstitch.base.extras import extra, require
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.lora_files import (
    Fused,
    acting_scales,
    check_lora,
    lora_problems,
    name_problems,
    named_in,
    prefix_of,
    scale_problems,
)

Places = Mapping[str, tuple[object, str]]
"""By model, "large" or "small", the object that holds the transformer and the name of the attribute."""


class Adapters:
    """The LoRA adapters of a pipeline.

    Each has a name, a file for one or both models, and one scale. Adapters with a scale other than 0 act in every
    generation that names none. A generation that names some runs with exactly those.

    Adapters that were attached to a transformer by diffusers' own methods stay as they are.
    """

    def __init__(self, places: Places):
        self._places = places
        self._scales: dict[str, float] = {}

    @property
    def models(self) -> list[str]:
        """The models that an adapter may be for."""
        return [*self._places]

    @property
    def names(self) -> list[str]:
        """The names that a generation may use."""
        return sorted(self._scales)

    @property
    def usual(self) -> dict[str, float]:
        """The scales of the adapters that act where a generation names none."""
        return acting_scales(self._scales)

    def describe(self) -> dict[str, dict[str, Any]]:
        """For each adapter, the models that it is for and its scale."""
        return {
            name: {"models": [model for model, each in self._models() if name in _configs(each)], "scale": scale}
            for name, scale in self._scales.items()
        }

    def load(self, path: str | Path, model: str, name: str | None = None, scale: float = 1.0) -> str:
        """Load an adapter and return its name; see `HybridStitchPipeline.load_lora_weights`."""
        models = dict(self._models())
        if name is None:
            name = next(each for number in range(1, 10**6) if (each := f"adapter-{number}") not in self._scales)
        problems = name_problems("adapter_name", name) + scale_problems("scale", scale)
        if model not in models:
            problems.append(Problem("model", one_of(models, model), model))
        elif name in _configs(models[model]):
            problems.append(Problem("adapter_name", f"a name that the {model} model does not have yet", name))
        elif scale != self._scales.get(name, scale):
            problems.append(Problem("scale", f"{self._scales[name]:g}, as for the other model of {name}", scale))
        raise_problems(problems)
        _attach(models[model], path, model, name)
        self._scales[name] = float(scale)
        self._apply(self.usual)
        return name

    def load_packed(self, folder: str | Path | None) -> None:
        """Load the adapters of a packed pair that a generation may name. They act where a generation names them."""
        places = dict(self._models())
        for name, files in named_in(folder).items():
            for model in files.keys() & places.keys():
                self.load(files[model], model, name, 0.0)
            self._scales.setdefault(name, 0.0)

    def unload(self, name: str | None = None) -> None:
        """Remove an adapter, or all of them. Without adapters the models have their own layers again."""
        if name is not None:
            raise_problems(self.problems({name: 1.0}, "adapter_name"))
        for each in [*self._scales] if name is None else [name]:
            del self._scales[each]
            for _, transformer in self._models():
                if each in _configs(transformer):
                    transformer.delete_adapters(each)
                    if not _configs(transformer):
                        transformer.unload_lora()
        self._apply(self.usual)

    def problems(self, wanted: Any, field: str = "lora") -> list[Problem]:
        """What is wrong with the scales that a generation names."""
        return lora_problems(wanted, self.names, field)

    @contextmanager
    def acting(self, wanted: Mapping[str, float] | None) -> Iterator[None]:
        """Run with exactly these adapters while it is open; None for the usual ones. Hold `exclusive` around it."""
        if wanted is None or wanted == self.usual:
            yield
            return
        try:
            self._apply(wanted)
            yield
        finally:
            self._apply(self.usual)

    def refuse(self, what: str) -> None:
        """Raise InvalidInput if any adapter is loaded. what: what cannot be done then."""
        if self._scales:
            expected = f"none where {what}: call unload_lora_weights() first"
            raise InvalidInput([Problem("adapters", expected, ", ".join(self.names))])

    def _models(self) -> Iterator[tuple[str, SD3Transformer2DModel]]:
        for model, (owner, attribute) in self._places.items():
            yield model, getattr(owner, attribute)

    def _apply(self, wanted: Mapping[str, float]) -> None:
        for _, transformer in self._models():
            ours = {name: scale for name, scale in sorted(wanted.items()) if name in _configs(transformer)}
            for layer in _adapted_layers(transformer):
                others = [name for name in layer.active_adapters if name not in self._scales]
                layer.set_adapter([*others, *ours], inference_mode=True)
                for name, scale in ours.items():
                    layer.set_scale(name, scale)


def fuse(models: Mapping[str, SD3Transformer2DModel], fused: list[Fused]) -> None:
    """Add adapters to the weights of their models. Raises InvalidInput for files that do not fit."""
    for each in fused:
        transformer, name = models.get(each.model), "fused"
        if transformer is None:
            continue
        if hasattr(transformer.config, "quantization_config"):
            expected = f"a {each.model} model without quantised weights, to add an adapter to them"
            raise InvalidInput([Problem(each.file, expected, "quantised ones")])
        _attach(transformer, each.file, each.model, name)
        transformer.set_adapters([name], [each.scale])
        transformer.fuse_lora(adapter_names=[name])
        transformer.unload_lora()


def _attach(transformer: SD3Transformer2DModel, path: str | Path, model: str, name: str) -> None:
    require("peft", "lora")
    check_lora(path, transformer, model)
    tensors, metadata = StableDiffusion3Pipeline.lora_state_dict(
        str(path), use_safetensors=True, return_lora_metadata=True, local_files_only=True
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        # Without `low_cpu_mem_usage` the layers would first get random numbers, from torch's global state.
        transformer.load_lora_adapter(
            tensors, prefix=prefix_of(tensors), adapter_name=name, metadata=metadata, low_cpu_mem_usage=True
        )


def _configs(transformer: SD3Transformer2DModel) -> Mapping[str, Any]:
    return getattr(transformer, "peft_config", {})


def _adapted_layers(transformer: SD3Transformer2DModel) -> list[Any]:
    if not _configs(transformer):
        return []
    with extra("lora"):
        from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]

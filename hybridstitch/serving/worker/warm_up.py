"""First pictures, by which a worker proves at its start that all of its models work, and compiles them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hybridstitch.model.pair import SizeLimits
from hybridstitch.pipeline import StepWatcher
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.sampler import Step
from hybridstitch.wire.proof import smallest_request
from hybridstitch.wire.request import GenerationRequest, parse_request


def warm_up(
    generate: Callable[[Sequence[GenerationRequest], StepWatcher], Any],
    limits: SizeLimits,
    catalogue: Catalogue | None,
) -> None:
    """Generate the smallest picture by every model, and check that the output is finite.

    Args:
        generate: Generates the pictures of requests and calls its second argument after every step.
        limits: The sizes that the models can generate.
        catalogue: The recipes of the endpoint; None if it has one model.

    Raises:
        FloatingPointError: The output of a model is not finite. The message names the model.
    """
    models = ("large", "large" if catalogue is None else "small")

    def check(_: range, step: Step) -> None:
        if not step.denoised.isfinite().all():
            raise FloatingPointError(
                f"{models[step.index]} model: expected finite output, got inf or NaN in the first picture; check its "
                "weights and those of the text encoders, or set a wider handler.dtype in model-config.yaml"
            )

    payload = smallest_request(limits.minimum, recipes=catalogue is not None)
    generate([parse_request(payload, {}, limits, catalogue)], check)


def warm_up_graphs(
    generate: Callable[[Sequence[GenerationRequest], StepWatcher], Any],
    limits: SizeLimits,
    catalogue: Catalogue | None,
    defaults: Mapping[str, Any],
    loras: Collection[str] = (),
) -> None:
    """Generate pictures whose steps compile the blocks: dense, two numbers of masked tokens, and the small model.

    Args:
        generate: Generates the pictures of requests and calls its second argument after every step.
        limits: The sizes that the models can generate.
        catalogue: The recipes of the endpoint; None if it has one model.
        defaults: Those of requests; size and guidance count.
        loras: The adapters that a request may name. Layers have separate graphs for each, at any scale.
    """
    usual = {name: defaults[name] for name in ("width", "height", "guidance_scale") if defaults.get(name) is not None}
    payload = {"prompt": "x", "seed": 0, "num_inference_steps": 5, **usual}
    masked = {"plan": {"type": "listed", "shares": [1, 1, 0.5, 0.3, 0]}, "fill": {"type": "small"}}
    # Recipes without masks keep no keys and values, and have graphs without them.
    recipes: list[dict[str, Any]] = [{"recipe": masked}, {"recipe": "large"}]
    for acting in ({}, *({name: 1.0} for name in loras)):
        for recipe in recipes if catalogue is not None else [{}]:
            fields = payload | recipe | {"lora": acting}
            generate([parse_request(fields, {}, limits, catalogue, loras=loras)], lambda *_: None)

"""A first picture, by which a worker proves at its start that all of its models work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

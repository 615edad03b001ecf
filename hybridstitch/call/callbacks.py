"""The caller's `callback_on_step_end`: the tensors that it receives and may replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from hybridstitch.call.prompts import described
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.parts import Parts
from hybridstitch.sampler import Step

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], Mapping[str, Tensor] | None]
FIELD = "callback_on_step_end"


class AfterStep:
    """Calls `callback_on_step_end`, if there is one, and passes what it returns to the models."""

    def __init__(
        self,
        pipeline: Parts,
        callback: StepCallback | None,
        names: Sequence[str],
        large: GuidedModel,
        small: GuidedModel,
    ):
        """Prepare the calls of one generation.

        Args:
            pipeline: First argument of the callback.
            callback: The caller's function; None for none.
            names: Tensors that the callback receives, of `TENSOR_INPUTS`.
            large, small: The models whose prompt embeddings it may replace.
        """
        self._pipeline = pipeline
        self._callback = callback
        self._names = names
        self._large, self._small = large, small

    def __call__(self, step: Step) -> Tensor | None:
        """Return latents that replace those of the step, if any.

        Raises:
            InvalidInput: The callback returned something other than tensors of the same shapes.
        """
        if self._callback is None:
            return None
        large = self._large
        tensors = {"latents": step.latents, "prompt_embeds": large.context, "pooled_prompt_embeds": large.pooled}
        seen = {name: tensors[name] for name in self._names}
        answer: Any = self._callback(self._pipeline, step.index, step.timestep, seen)
        if answer is None:
            return None
        if not isinstance(answer, Mapping):
            raise InvalidInput([Problem(FIELD, "a function that returns a dictionary of tensors or None", answer)])
        problems = []
        for name, value in answer.items():
            if name not in tensors:
                problems.append(Problem(f"{FIELD}.{name}", "one of: " + ", ".join(tensors), described(value)))
            elif not isinstance(value, Tensor) or value.shape != tensors[name].shape:
                shape = tuple(tensors[name].shape)
                problems.append(Problem(f"{FIELD}.{name}", f"a tensor {shape}, as it was", described(value)))
        if problems:
            raise InvalidInput(problems)
        new = {name: value.to(tensors[name]) for name, value in answer.items()}
        for model in (large, self._small):
            model.context = new.get("prompt_embeds", model.context)
            model.pooled = new.get("pooled_prompt_embeds", model.pooled)
        return new.get("latents")

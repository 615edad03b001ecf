"""The targets of an explanation: the large model's prediction in a region or everywhere, and the choice of a mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from hybridstitch.explain.forward_counter import CountedModel, ForwardCounter
from hybridstitch.explain.recording import Recording
from hybridstitch.model.mmdit import gather_rows
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.trajectory import StepState, Trajectory

TINY = 1e-12


@dataclass(frozen=True)
class Texts:
    """Prompts as the transformers read them: `(prompts, text tokens, width)` and `(prompts, width)`."""

    context: Tensor
    pooled: Tensor


class Target(ABC):
    """Something in the picture that depends on the prompt, at some steps of the generation.

    The *response* to prompts at a step is what the models compute for them, `(prompts, tokens, …)`. Its `strength` is
    one number for each prompt, and 1 for the whole prompt.
    """

    steps: Sequence[int]
    where: Tensor | None
    """The tokens explained, bool `(tokens,)`; None for all."""

    def __init__(self, pipeline: HybridStitchPipeline, recording: Recording, counter: ForwardCounter):
        self.pipeline = pipeline
        self.recording = recording
        self.counter = counter

    def _model(
        self, device: torch.device, transformer: SD3Transformer2DModel, texts: Texts, guidance_scale: float
    ) -> CountedModel:
        """A model of a replay, with the adapters of the generation. See `GuidedModel` for the texts."""
        weight = self.recording.generation.lora_scale
        return CountedModel(device, transformer, texts.context, texts.pooled, guidance_scale, self.counter, weight)

    @abstractmethod
    def respond(self, step: int, texts: Texts) -> Tensor:
        """Return the responses to prompts at a step, from the recorded latents."""

    @abstractmethod
    def strength(self, step: int, response: Tensor, whole: Tensor, nothing: Tensor) -> Tensor:
        """Return a number `(prompts,)` for each response, given those to the whole prompt and to the baseline."""


class Prediction(Target):
    """The large model's velocity for the prompt alone, without guidance, at some tokens.

    Strength: projection of (response - baseline) onto (whole - baseline), normalised so that the whole prompt scores 1.
    """

    def __init__(
        self,
        pipeline: HybridStitchPipeline,
        recording: Recording,
        counter: ForwardCounter,
        steps: Sequence[int],
        where: Tensor | None,
    ):
        super().__init__(pipeline, recording, counter)
        self.steps = steps
        self.where = where

    def respond(self, step: int, texts: Texts) -> Tensor:
        point, rows = self.recording.points[step], texts.context.shape[0]
        large = self._model(self.pipeline.device, self.pipeline.large, texts, 0.0)
        return large(point.latents.expand(rows, -1, -1, -1), point.timestep).float()

    def strength(self, step: int, response: Tensor, whole: Tensor, nothing: Tensor) -> Tensor:
        way, gone = whole - nothing, response - nothing
        if self.where is not None:
            way, gone = way[:, self.where], gone[:, self.where]
        return (gone * way).sum(dim=(1, 2)) / way.square().sum().clamp(min=TINY)


class Choice(Target):
    """The scores of the recipe's mask, which decide the model that renders a token.

    The last two dense steps before a mask, and the steps since, are replayed with other prompts on the recorded
    latents. Strength: mean score of the selected tokens minus that of the others, divided by its value for the whole
    prompt.
    """

    def __init__(
        self,
        pipeline: HybridStitchPipeline,
        recording: Recording,
        counter: ForwardCounter,
        steps: Sequence[int],
        negative: Texts | None,
        always: Tensor | None = None,
    ):
        """Prepare the replay of some steps.

        Args:
            pipeline, recording, counter: As in every target.
            steps: Steps that made a mask.
            negative: The prompt of the negative half; None without guidance.
            always: Tokens of a region, bool `(tokens,)`. They are left out, because no mask selected them.
        """
        super().__init__(pipeline, recording, counter)
        self.steps = steps
        self._negative = negative
        self._always = torch.zeros_like(recording.selected(steps[0])) if always is None else always
        self.where = torch.stack([recording.selected(step) for step in steps]).any(dim=0) & ~self._always

    def respond(self, step: int, texts: Texts) -> Tensor:
        rows = texts.context.shape[0]
        large = self._guided(self.pipeline.large, self.pipeline.device, texts)
        small = self._guided(self.pipeline.small, self.pipeline.small_device or self.pipeline.device, texts)
        recording = self.recording
        trajectory = Trajectory(recording.grid, len(recording.steps), small, large.guidance_scale)
        for done in recording.steps[recording.replay_start(step) : step]:
            trajectory.move_to(_repeated(recording.points[done.index], rows))
            if done.share > 0:
                velocity = large(trajectory.now.latents, trajectory.now.timestep)
                tokens = None if done.tokens is None else done.tokens.expand(rows, -1)
                trajectory.record(velocity if tokens is None else gather_rows(velocity, tokens), tokens)
        trajectory.move_to(_repeated(recording.points[step], rows))
        return recording.recipe.mask.scores(trajectory).float().unsqueeze(-1)

    def strength(self, step: int, response: Tensor, whole: Tensor, nothing: Tensor) -> Tensor:
        return self.margin(step, response) / self.margin(step, whole).clamp(min=TINY)

    def margin(self, step: int, response: Tensor) -> Tensor:
        """Return the mean score of the selected tokens minus that of the others, `(prompts,)`."""
        selected = self.recording.selected(step)
        ours, others = response[:, selected & ~self._always], response[:, ~selected & ~self._always]
        return ours.mean(dim=(1, 2)) - others.mean(dim=(1, 2))

    def _guided(self, transformer: SD3Transformer2DModel, device: torch.device, texts: Texts) -> CountedModel:
        context, pooled = texts.context, texts.pooled
        if self._negative is not None:
            context = torch.cat([self._negative.context.expand_as(context), context])
            pooled = torch.cat([self._negative.pooled.expand_as(pooled), pooled])
        scale = self.recording.generation.guidance_scale
        return self._model(device, transformer, Texts(context, pooled), scale)


def _repeated(point: StepState, rows: int) -> StepState:
    return replace(point, latents=point.latents.expand(rows, -1, -1, -1))

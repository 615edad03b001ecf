"""The scores of the words, by ablation or by integrated gradients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybridstitch.base.extras import extra
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.explain.embeddings import Embedded
from hybridstitch.explain.reading import Readings
from hybridstitch.explain.targets import Target, Texts
from hybridstitch.masks.attribution import movement

with extra("serve"):
    from captum.attr import FeatureAblation, IntegratedGradients

RESTS = {  # clients receive these texts as `baseline`
    "ablation": "the prompt with the word deleted, encoded anew",
    "integrated_gradients": "the prompt with padding in the place of each of its words",
}


class Effects:
    """The effect of words on one target, see `Target` for *response* and *strength*.

    The responses to the whole prompt and to the prompt without words are computed once.
    """

    def __init__(self, target: Target, readings: Readings, rows: int):
        """rows: Prompts in one forward; more are faster and take more memory."""
        self.target = target
        self.readings = readings
        self.words = readings.words
        self.rows = rows
        self.heat = torch.zeros(len(self.words), target.recording.grid[0] * target.recording.grid[1])

    @cached_property
    def whole(self) -> dict[int, Tensor]:
        """The responses to the whole prompt, by step."""
        return self._responses(self._encode([()]))

    @cached_property
    def nothing(self) -> dict[int, Tensor]:
        """The responses to the prompt without any of its words."""
        return self._responses(self._encode([range(len(self.words))]))

    def ablation(self) -> list[float]:
        """Return the strength that is lost without each word, and add to `heat` how far each token moves."""
        present = torch.ones(1, len(self.words))
        lost = FeatureAblation(self._strength_of_present).attribute(
            present, baselines=0, perturbations_per_eval=self.rows
        )
        return lost[0].tolist()

    def integrated_gradients(self, n_steps: int) -> tuple[list[float], float]:
        """Return a score for each word, and the difference between their sum and the whole effect.

        Args:
            n_steps: Points on the straight path from padding to the embeddings of the prompt.
        """
        embedded = Embedded.of(
            self.target.pipeline, self.readings, self.words, self.target.recording.generation.encoding
        )
        nothing = self._responses(embedded.encode(embedded.baselines))

        def strength(*embeddings: Tensor) -> Tensor:
            texts = embedded.encode(embeddings)
            found = sum(
                self.target.strength(
                    step, checkpoint(self._respond, step, texts, use_reentrant=False), self.whole[step], nothing[step]
                )
                for step in self.target.steps
            )
            assert isinstance(found, Tensor)
            if torch.is_grad_enabled() and not found.requires_grad:
                expected = "ablation: the scores of this recipe's mask have no gradient"
                raise InvalidInput([Problem("method", expected, "integrated_gradients")])
            return found / len(self.target.steps)

        attributed = IntegratedGradients(strength).attribute(
            embedded.inputs, baselines=embedded.baselines, n_steps=n_steps, internal_batch_size=self.rows
        )
        scores = embedded.by_word(attributed)
        with torch.no_grad():
            effect = 1 - float(self._mean(nothing, nothing))
        return scores, abs(sum(scores) - effect)

    def _strength_of_present(self, present: Tensor) -> Tensor:
        """Return the strength of prompts with the words that are 1 in `present` `(prompts, words)`."""
        absent = [(row == 0).nonzero().flatten().tolist() for row in present]
        if not any(absent):
            return self._mean(self.whole, self.nothing).repeat(len(absent))
        responses = self._responses(self._encode(absent))
        for step, response in responses.items():
            moved = movement(self.whole[step], response).cpu() / len(self.target.steps)
            for row, gone in enumerate(absent):
                self.heat[gone[0]] += moved[row]
        return self._mean(responses, self.nothing)

    def _mean(self, responses: dict[int, Tensor], nothing: dict[int, Tensor]) -> Tensor:
        """Return the strength of responses `(prompts,)`, mean over the steps."""
        strengths = [
            self.target.strength(step, response, self.whole[step], nothing[step])
            for step, response in responses.items()
        ]
        return torch.stack(strengths).mean(dim=0).cpu()

    def _responses(self, texts: Texts) -> dict[int, Tensor]:
        return {step: self._respond(step, texts) for step in self.target.steps}

    def _respond(self, step: int, texts: Texts) -> Tensor:
        return self.target.respond(step, texts)

    def _encode(self, left_out: Sequence[Collection[int]]) -> Texts:
        """Encode the prompt without the words of these numbers, one prompt for each collection."""
        texts = zip(*(self.readings.without(gone) if gone else self.readings.texts for gone in left_out), strict=True)
        return Texts(*self.target.pipeline.prompts.alone(*texts, how=self.target.recording.generation.encoding))

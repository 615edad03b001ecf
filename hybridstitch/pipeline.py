"""Prompts to pictures: diffusers' Stable Diffusion 3 parts around a loop that stitches two transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from hybridstitch.arguments import checked
from hybridstitch.catalogue import Catalogue
from hybridstitch.guidance import GuidedModel
from hybridstitch.mmdit import cached_attention
from hybridstitch.pair import SizeLimits, load_pair
from hybridstitch.prompts import PromptEncoder
from hybridstitch.recipe import Recipe
from hybridstitch.region import Region, with_region
from hybridstitch.report import Recorder, Report, Stopwatch, seed_of, together
from hybridstitch.sampler import Step, sample

StepCallback = Callable[["HybridStitchPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
StepWatcher = Callable[[range, Step], None]


@dataclass(frozen=True)
class Output:
    """Pictures in the form asked for, and the report on how they were made."""

    images: Any
    report: Report


class HybridStitchPipeline:
    """A large and a small SD3 model behind the call that `StableDiffusion3Pipeline` has.

    One call at a time: while it runs, the transformers' attention processors are replaced; they are put back
    before it returns, also after an exception.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        small: SD3Transformer2DModel,
        catalogue: Catalogue | None = None,
    ):
        """pipeline: the large model with all shared parts. small: the small transformer."""
        self._pipeline = pipeline
        self.large: SD3Transformer2DModel = pipeline.transformer
        self.small = small
        self.catalogue = catalogue or Catalogue.load()
        self.size_limits = SizeLimits.of(pipeline, small)
        self.prompts = PromptEncoder(pipeline)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        large: str | Path | None = None,
        small: str | Path | None = None,
        torch_dtype: torch.dtype = torch.float32,
        catalogue: Catalogue | None = None,
        variant: str | None = None,
    ) -> Self:
        """Load a packed pair, or two SD3 pipelines (folders or hub ids); see `hybridstitch.pair.load_pair`."""
        models = load_pair(folder, large, small, torch_dtype, variant)
        return cls(*models, catalogue=(catalogue or Catalogue.load()).of_pair(folder))

    @property
    def components(self) -> dict[str, Any]:
        """The parts under diffusers' names; `transformer` is the large one."""
        return dict(self._pipeline.components)

    def to(self, device: str | torch.device) -> Self:
        """Move every part."""
        self._pipeline.to(device)
        self.small.to(device)
        return self

    def set_progress_bar_config(self, **config: Any) -> None:
        """As in diffusers: arguments for tqdm, such as `disable=True`."""
        self._pipeline.set_progress_bar_config(**config)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        prompt_3: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        sigmas: list[float] | None = None,
        guidance_scale: float = 7.0,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        negative_prompt_3: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        clip_skip: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        max_sequence_length: int | None = None,
        recipe: Recipe | str | dict[str, Any] | None = None,
        speed: float | None = None,
        region: Region | None = None,
        on_step: StepWatcher | None = None,
    ) -> Output:
        """Draw pictures. Arguments are those of `StableDiffusion3Pipeline` where it has them.

        recipe: which model renders what; a name, a description (see `Catalogue.resolve`) or a `Recipe`;
            by default "hybridstitch-plus" on a pair that was tuned, otherwise, and with `sigmas`, "hybridstitch".
        speed: instead of a recipe, on a pair that was tuned: at least this many times fewer FLOPs than the large
            model needs, by the most faithful recipe that does it. It may take fewer steps than asked for.
        region: left, top, right, bottom in pixels: its tokens are the large model's at every step, shares of the rest.
        on_step: called after every step with the numbers of its pictures and the `Step`; an exception ends the call.
        height, width: pixels, see `size_limits`; the pair's own size by default.
        max_sequence_length: tokens for the third text encoder, 256 by default; 0 for pairs without it.
        callback_on_step_end: called with this pipeline, the step, its timestep and `{"latents": …}` after every
            step; latents in the dictionary that it returns replace the step's, an exception ends the generation.
            Plans that look at the picture draw pictures one by one: then it sees one at a time, from step 0 again.
        output_type: `pil`, `np`, `pt` or `latent`.

        Raises InvalidInput (a ValueError) for wrong arguments, FloatingPointError for latents that are not finite.
        """
        watch = Stopwatch(self.large.device)
        width = self.size_limits.default[0] if width is None else width
        height = self.size_limits.default[1] if height is None else height
        recipe = checked(
            self.catalogue, self.size_limits, recipe=recipe, speed=speed, sigmas=sigmas, region=region,
            width=width, height=height,
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, output_type=output_type,
        )  # fmt: skip
        schedule = sigmas or recipe.schedule(num_inference_steps)
        if max_sequence_length is None:
            max_sequence_length = self.prompts.text_length
        self._pipeline.check_inputs(
            prompt, prompt_2, prompt_3, height, width, negative_prompt, negative_prompt_2, negative_prompt_3,
            max_sequence_length=max_sequence_length,
        )  # fmt: skip

        guided = guidance_scale > 1
        context, pooled = self.prompts(
            guided, prompt=prompt, prompt_2=prompt_2, prompt_3=prompt_3, negative_prompt=negative_prompt,
            negative_prompt_2=negative_prompt_2, negative_prompt_3=negative_prompt_3, clip_skip=clip_skip,
            num_images_per_prompt=num_images_per_prompt, max_sequence_length=max_sequence_length,
        )  # fmt: skip
        pictures, channels = context.shape[0] // (2 if guided else 1), self.large.config.in_channels
        latents = self._pipeline.prepare_latents(
            pictures, channels, height, width, context.dtype, context.device, generator, latents
        )
        watch.lap("encode")

        run = recipe if region is None else with_region(recipe, region, self.size_limits.multiple_of)
        # A plan that looks at the picture may decide otherwise for each: such pictures are drawn one by one.
        groups = torch.arange(pictures, device=latents.device).split(1 if recipe.plan.adaptive else pictures)
        drawn, work = [], []
        for group in groups:
            rows = torch.cat([group, group + pictures]) if guided else group
            large = GuidedModel(self.large, context[rows], pooled[rows], guidance_scale, run.plan.masked)
            small = GuidedModel(self.small, context[rows], pooled[rows], guidance_scale, recipe.fill.cached)
            recorder = Recorder(large, small, latents[group])
            watchers: list[Callable[[Step], None]] = [recorder.step]
            if on_step is not None:
                watchers.append(partial(on_step, range(int(group[0]), int(group[-1]) + 1)))
            drawn.append(self._denoise(latents[group], large, small, run, watchers, schedule, callback_on_step_end))
            work.append(recorder.work(len(sigmas) if sigmas else num_inference_steps))
        latents = torch.cat(drawn)
        if not torch.isfinite(latents).all():
            raise FloatingPointError("latents: not finite after denoising; a wider dtype than this one may help")
        watch.lap("denoise")
        images = latents if output_type == "latent" else self.decode(latents, output_type)
        watch.lap("decode")

        report = Report(
            recipe=recipe,
            seed=seed_of(generator),
            width=width,
            height=height,
            num_inference_steps=len(sigmas) if sigmas else num_inference_steps,
            speed=speed,
            region=region,
            guidance_scale=guidance_scale,
            timing_ms=watch.timing_ms,
            warnings=self.prompts.warnings(prompt),
            groups=work,
            **together(work),
        )
        return Output(images, report)

    def initial_latents(self, width: int, height: int, generator: list[torch.Generator]) -> Tensor:
        """The noise that a call with these generators begins with, `(pictures, channels, height, width)` of latents."""
        like = self._pipeline.text_encoder
        return self._pipeline.prepare_latents(
            len(generator), self.large.config.in_channels, height, width, like.dtype, like.device, generator
        )

    def _denoise(
        self,
        latents: Tensor,
        large: GuidedModel,
        small: GuidedModel,
        recipe: Recipe,
        watchers: Sequence[Callable[[Step], None]],
        schedule: int | list[float],
        callback: StepCallback | None,
    ) -> Tensor:
        # A scheduler of this generation's own: what an exception leaves in it is nobody's.
        scheduler = type(self._pipeline.scheduler).from_config(self._pipeline.scheduler.config)
        if isinstance(schedule, int):
            scheduler.set_timesteps(schedule, device=latents.device)
        else:
            scheduler.set_timesteps(len(schedule), sigmas=schedule, device=latents.device)
        with ExitStack() as stack:
            stack.enter_context(cached_attention(self.large))
            stack.enter_context(cached_attention(self.small))
            stack.callback(large.release)
            stack.callback(small.release)
            progress = stack.enter_context(self._pipeline.progress_bar(total=len(scheduler.timesteps)))

            def on_step(step: Step) -> Tensor | None:
                for watch in watchers:
                    watch(step)
                progress.update()
                tensors = {"latents": step.latents}
                return callback(self, step.index, step.timestep, tensors).get("latents") if callback else None

            return sample(latents, scheduler, large, small, recipe, on_step)

    @torch.no_grad()
    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Latents, or the `clean` of a `Step`, to pictures."""
        vae = self._pipeline.vae
        decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
        if not torch.isfinite(decoded).all():
            raise FloatingPointError("picture: not finite after decoding; a wider dtype than this one may help")
        return self._pipeline.image_processor.postprocess(decoded, output_type=output_type)

"""Prompts to pictures: diffusers' Stable Diffusion 3 parts around a loop that stitches two transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from hybridstitch.base.paths import PAIR_FILE, SMALL_FOLDER
from hybridstitch.call.arguments import Call, images_problems, validate_call
from hybridstitch.call.callbacks import AfterStep, StepCallback
from hybridstitch.call.prompts import clip_skip_problems, prompts_of, text_length
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.generation import dtype_of
from hybridstitch.model.exclusive import exclusive
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import cached_attention
from hybridstitch.model.pair import SizeLimits, describe_pair, load_pair
from hybridstitch.model.parts import Parts
from hybridstitch.model.prompts import PromptEncoder
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import Region, with_region
from hybridstitch.report import Recorder, Report, Stopwatch, merged, seed_of
from hybridstitch.sampler import Step, sample

StepWatcher = Callable[[range, Step], None]


@dataclass(frozen=True)
class Output:
    """Pictures in the form asked for, and the report on how they were made."""

    images: Any
    report: Report


class HybridStitchPipeline(Parts):
    """A large and a small SD3 model behind the call that `StableDiffusion3Pipeline` has.

    Calls from several threads run one after another, because a call hooks into the models. Attention processors are
    put back before it returns, also after an exception.

    large, small: the two transformers; `transformer` is another name of the large one.
    catalogue: the recipes and strategies that calls may name.
    size_limits: the picture sizes that the pair can make.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        small: SD3Transformer2DModel,
        catalogue: Catalogue | None = None,
    ):
        """pipeline: the large model with all shared parts. small: the small transformer."""
        self._pipeline = pipeline
        self.small = small
        self.catalogue = catalogue or Catalogue.load()
        self.size_limits = SizeLimits.of(pipeline, small)
        self.prompts = PromptEncoder(pipeline)
        self.description: dict[str, Any] = {}

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        *,
        large: str | Path | None = None,
        small: str | Path | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        variant: str | None = None,
        catalogue: Catalogue | None = None,
    ) -> Self:
        """Load a packed pair, or two SD3 pipelines (folders or hub ids).

        Args:
            folder: a packed pair.
            large, small: instead of it, two SD3 pipelines; see `hybridstitch.model.pair.load_pair`.
            dtype: of the weights, a torch type or its name, such as "float16"; float32 by default.
            torch_dtype: the same under diffusers' older name.
            variant: part of the names of the weight files, such as "fp16", as in diffusers.
            catalogue: recipes and strategies; by default the built-in ones, and what the pair was tuned to.

        Raises:
            InvalidInput: for a type that is none, or models that do not fit together.
        """
        models = load_pair(folder, large, small, dtype_of(dtype, torch_dtype), variant)
        pipeline = cls(*models, catalogue=(catalogue or Catalogue.load()).of_pair(folder))
        pipeline.description = {} if folder is None else describe_pair(folder)
        return pipeline

    def save_pretrained(
        self, save_directory: str | Path, *, variant: str | None = None, max_shard_size: int | str | None = None
    ) -> None:
        """Write the pair as a folder that `from_pretrained` opens again, with the recipes it was tuned to.

        Args:
            save_directory: the folder; it is made.
            variant, max_shard_size: as in diffusers. Weights are safetensors.
        """
        folder = Path(save_directory)
        options = {"variant": variant, "max_shard_size": max_shard_size}
        self._pipeline.save_pretrained(folder, safe_serialization=True, **options)
        options = {name: value for name, value in options.items() if value is not None}
        self.small.save_pretrained(folder / SMALL_FOLDER, safe_serialization=True, **options)
        self.catalogue.save_tuned(folder)
        if self.description:
            (folder / PAIR_FILE).write_text(json.dumps(self.description, indent=2))

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        prompt_3: str | list[str] | None = None,
        device: str | torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        negative_prompt_3: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Encode prompts as a call does; arguments and defaults are those of the call.

        Returns:
            prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds and negative_pooled_prompt_embeds, which a
            call takes in place of texts. The negative ones are None without `do_classifier_free_guidance`.
        """
        given = locals()
        problems: list[Problem] = []
        length = text_length(self, given["max_sequence_length"], problems)
        problems += clip_skip_problems(self, clip_skip)
        prompts = prompts_of(self, given, length, do_classifier_free_guidance, problems)
        images = images_problems(num_images_per_prompt)
        raise_problems(problems + images)
        with exclusive(self.large, self.small):
            found = self.prompts.encode(
                do_classifier_free_guidance, prompts, num_images_per_prompt, clip_skip, cast(int, length)
            )
        return tuple(each if each is None or device is None else each.to(device) for each in found)  # type: ignore

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        prompt_2: str | list[str] | None = None,
        prompt_3: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        sigmas: Sequence[float] | Tensor | None = None,
        guidance_scale: float = 4.5,
        negative_prompt: str | list[str] | None = None,
        negative_prompt_2: str | list[str] | None = None,
        negative_prompt_3: str | list[str] | None = None,
        num_images_per_prompt: int | None = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        ip_adapter_image: None = None,
        ip_adapter_image_embeds: None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        joint_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        skip_guidance_layers: None = None,
        skip_layer_guidance_scale: float = 2.8,
        skip_layer_guidance_stop: float = 0.2,
        skip_layer_guidance_start: float = 0.01,
        mu: None = None,
        *,
        recipe: Recipe | str | dict[str, Any] | None = None,
        speed: float | None = None,
        region: Region | None = None,
        on_step: StepWatcher | None = None,
    ) -> Any:
        """Generate pictures. Arguments are those of `StableDiffusion3Pipeline`, in its order, and four more.

        Args:
            recipe: which model renders what; a name, a description (see `Catalogue.resolve`) or a `Recipe`; by
                default "hybridstitch-plus" on a pair that was tuned, otherwise, and with `sigmas`, "hybridstitch".
            speed: instead of a recipe, on a pair that was tuned: at least this many times fewer FLOPs than the large
                model needs, by the most faithful recipe that does it. It may take fewer steps than asked for.
            region: left, top, right, bottom in pixels: the large model renders its tokens at every step; the
                recipe's shares are then of the rest.
            on_step: called after every step with the numbers of its pictures and the `Step`; an exception ends the
                call.
            height, width: pixels, see `size_limits`; the pair's own size by default.
            sigmas: noise levels before the shift, falling from at most 1; they replace `num_inference_steps`.
            guidance_scale: 4.5 by default, as everywhere in this project; diffusers has 7.0.
            max_sequence_length: tokens for the third text encoder, 256 by default; 0 for pairs without it.
            prompt_embeds, pooled_prompt_embeds and their negative forms: what `encode_prompt` returns, instead of
                texts. The negative half may be left to `negative_prompt`.
            callback_on_step_end: called with this pipeline, the step, its timestep and the tensors named in
                `callback_on_step_end_tensor_inputs` after every step. Tensors in the dictionary that it returns, if
                it does, replace those of the following steps; an exception ends the generation. Plans that look at
                the picture generate pictures one by one: it then sees one at a time, from step 0 again.
            callback_on_step_end_tensor_inputs: of `latents`, `prompt_embeds` and `pooled_prompt_embeds`, the last
                two with the negative half first.
            output_type: `pil`, `np`, `pt` or `latent`.
            return_dict: False for a tuple `(images,)` without the report.
            ip_adapter_image, ip_adapter_image_embeds, joint_attention_kwargs, skip_guidance_layers and its
                companions, mu: refused if they would have an effect in diffusers.

        Returns:
            An `Output`.

        Raises:
            InvalidInput: (a ValueError) names every wrong argument, before any work.
            FloatingPointError: for latents that are not finite.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        call = validate_call(self, self.catalogue, given)
        with exclusive(self.large, self.small):
            out = self._generate(call, generator, latents, output_type, callback_on_step_end, on_step)
        return out if return_dict else (out.images,)

    def _generate(
        self,
        call: Call,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
        output_type: str,
        callback: StepCallback | None,
        on_step: StepWatcher | None,
    ) -> Output:
        watch = Stopwatch(self.device)
        recipe, guided, pictures = call.recipe, call.guided, call.pictures
        context, pooled = self.prompts(
            guided, call.prompts, call.num_images_per_prompt, call.clip_skip, call.max_sequence_length
        )
        latents = self._pipeline.prepare_latents(
            pictures, self.large.config.in_channels, call.height, call.width, context.dtype, context.device, generator,
            latents,
        )  # fmt: skip
        watch.lap("encode")

        schedule = call.sigmas or recipe.schedule(call.num_inference_steps)
        run = recipe if call.region is None else with_region(recipe, call.region, self.size_limits.multiple_of)
        # A plan that looks at the picture may decide otherwise for each: such pictures are made one by one.
        groups = torch.arange(pictures, device=latents.device).split(1 if recipe.plan.adaptive else pictures)
        done, work = [], []
        for group in groups:
            rows = torch.cat([group, group + pictures]) if guided else group
            large = GuidedModel(self.large, context[rows], pooled[rows], call.guidance_scale, run.plan.masked)
            small = GuidedModel(self.small, context[rows], pooled[rows], call.guidance_scale, recipe.fill.cached)
            recorder = Recorder(large, small, latents[group])
            watchers: list[Callable[[Step], None]] = [recorder.step]
            if on_step is not None:
                watchers.append(partial(on_step, range(int(group[0]), int(group[-1]) + 1)))
            after = AfterStep(self, callback, call.tensor_inputs, large, small)
            done.append(self._denoise(latents[group], large, small, run, watchers, schedule, after))
            work.append(recorder.work(call.steps))
        latents = torch.cat(done)
        if not torch.isfinite(latents).all():
            raise FloatingPointError("latents: not finite after denoising; a wider dtype than this one may help")
        watch.lap("denoise")
        images = latents if output_type == "latent" else self.decode(latents, output_type)
        watch.lap("decode")

        report = Report(
            recipe=recipe,
            seed=seed_of(generator),
            width=call.width,
            height=call.height,
            num_inference_steps=call.steps,
            speed=call.speed,
            region=call.region,
            guidance_scale=call.guidance_scale,
            timing_ms=watch.timing_ms,
            warnings=self.prompts.warnings(guided, call.prompts.texts, call.max_sequence_length),
            groups=work,
            **merged(work),
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
        after: AfterStep,
    ) -> Tensor:
        # A scheduler of this generation's own: what an exception leaves in it is nobody's.
        scheduler = type(self._pipeline.scheduler).from_config(self._pipeline.scheduler.config)
        if isinstance(schedule, int):
            scheduler.set_timesteps(schedule, device=latents.device)
        else:
            scheduler.set_timesteps(len(schedule), sigmas=schedule, device=latents.device)
        with ExitStack() as stack:
            for model in (large, small):
                if model.cached:
                    stack.enter_context(cached_attention(model.transformer))
            stack.callback(large.release)
            stack.callback(small.release)
            progress = stack.enter_context(self._pipeline.progress_bar(total=len(scheduler.timesteps)))

            def on_step(step: Step) -> Tensor | None:
                for watch in watchers:
                    watch(step)
                progress.update()
                return after(step)

            return sample(latents, scheduler, large, small, recipe, on_step)

    @torch.no_grad()
    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Latents, or the `denoised` of a `Step`, to pictures."""
        vae = self._pipeline.vae
        decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
        if not torch.isfinite(decoded).all():
            raise FloatingPointError("picture: not finite after decoding; a wider dtype than this one may help")
        return self._pipeline.image_processor.postprocess(decoded, output_type=output_type)

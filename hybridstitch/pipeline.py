"""Prompts to pictures: diffusers' Stable Diffusion 3 parts around a loop that stitches two transformers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from hybridstitch.base.paths import PAIR_FILE, SMALL_FOLDER
from hybridstitch.call.arguments import dtype_of, images_problems, pair_problems, validate_call
from hybridstitch.call.callbacks import AfterStep, StepCallback
from hybridstitch.call.prompts import clip_skip_problems, prompts_of, text_length
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.generation import Generation
from hybridstitch.model.dtype import dtype_name
from hybridstitch.model.exclusive import exclusive
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.lora import Adapters
from hybridstitch.model.mmdit import cached_attention
from hybridstitch.model.pair import SizeLimits, describe_pair, load_pair
from hybridstitch.model.parts import Parts
from hybridstitch.model.placement import PlacedModel
from hybridstitch.model.prompts import Encoding, PromptEncoder, rows_of
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import Region, with_region
from hybridstitch.report import Recorder, Report, Stopwatch, merged
from hybridstitch.sampler import Step, sample, scheduled

StepWatcher = Callable[[range, Step], None]
"""Called after every step with the numbers of its pictures and the step; an exception ends the generation."""


@dataclass(frozen=True)
class Output:
    """Pictures in the requested form, and the report on how they were made."""

    images: Any
    report: Report


class HybridStitchPipeline(Parts):
    """A large and a small SD3 model behind the call that `StableDiffusion3Pipeline` has.

    A call validates its arguments into a `Generation` and runs it. `generate` runs one that is validated already.
    Calls from several threads run one after another, because a call hooks into the models. Attention processors are
    restored before it returns, also after an exception.

    Attributes:
        large, small: The two transformers; `transformer` is another name of the large one.
        catalogue: The recipes and strategies that calls may name.
        size_limits: The picture sizes that the pair can generate.
        adapters: The LoRA adapters on the models.
        description: The content of the pair's own description file; empty without one.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        small: SD3Transformer2DModel,
        catalogue: Catalogue | None = None,
    ):
        """Combine two models.

        Args:
            pipeline: The large model with all shared parts.
            small: The small transformer.
            catalogue: Recipes and strategies; the built-in ones by default.
        """
        self._pipeline = pipeline
        self.small = small
        self.catalogue = catalogue or Catalogue.load()
        self.size_limits = SizeLimits.of(pipeline, small)
        self.prompts = PromptEncoder(pipeline)
        self.adapters = Adapters({"large": (pipeline, "transformer"), "small": (self, "small")})
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
        device: torch.device | str | None = None,
        variant: str | None = None,
        without: Sequence[str] = (),
        quantise: Mapping[str, str | None] | None = None,
        catalogue: Catalogue | None = None,
    ) -> Self:
        """Load a packed pair, or two SD3 pipelines (folders or hub ids).

        Args:
            folder: A packed pair.
            large, small: Instead of it, two SD3 pipelines; see `hybridstitch.model.pair.load_pair`.
            dtype: Of the weights, a torch dtype or its name, such as "float16". "auto", the default, depends on the
                device: see `hybridstitch.model.dtype.choose_dtype`.
            torch_dtype: The same under diffusers' older name.
            device: Where the models run; the CPU by default.
            variant: Part of the names of the weight files, such as "fp16", as in diffusers.
            without: Parts to leave out: "text_encoder_3", the largest text encoder.
            quantise: Parts whose weights become int8, such as {"large": "int8"}; see `hybridstitch.model.quantise`.
            catalogue: Recipes and strategies; by default the built-in ones, and those that the pair was tuned to.

        Raises:
            InvalidInput: The dtype is unknown, or the models do not fit together.
        """
        place = torch.device(device or "cpu")
        wanted = dtype_of(dtype, torch_dtype)
        options: dict[str, Any] = {"variant": variant, "without": without, "quantised": quantise}
        models = load_pair(folder, large, small, wanted, device=place, **options)
        pipeline = cls(*models, catalogue=(catalogue or Catalogue.load()).of_pair(folder)).to(place)
        pipeline.adapters.load_packed(folder)
        pipeline.description = {} if folder is None else describe_pair(folder)
        return pipeline

    def save_pretrained(
        self, save_directory: str | Path, *, variant: str | None = None, max_shard_size: int | str | None = None
    ) -> None:
        """Write the pair as a folder that `from_pretrained` opens again, with the recipes it was tuned to.

        Args:
            save_directory: The folder; it is created.
            variant, max_shard_size: As in diffusers. Weights are safetensors.
        """
        self.check_saving()
        folder = Path(save_directory)
        how: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
        with exclusive(self.large, self.small):  # a forward of another thread exchanges blocks for a moment
            self._pipeline.save_pretrained(folder, safe_serialization=True, variant=variant, **how)
            self.small.save_pretrained(folder / SMALL_FOLDER, safe_serialization=True, variant=variant, **how)
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
            how = Encoding(num_images_per_prompt, clip_skip, length)
            found = self.prompts.encode(do_classifier_free_guidance, prompts, how)
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
        skip_guidance_layers: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
        skip_layer_guidance_scale: float = 2.8,
        skip_layer_guidance_stop: float = 0.2,
        skip_layer_guidance_start: float = 0.01,
        mu: None = None,
        *,
        recipe: Recipe | str | dict[str, Any] | None = None,
        speed: float | None = None,
        region: Region | None = None,
        lora: Mapping[str, float] | None = None,
        on_step: StepWatcher | None = None,
    ) -> Any:
        """Generate pictures. Arguments are those of `StableDiffusion3Pipeline`, in its order, and five more.

        Args:
            recipe: Which model renders what: a name, a description (see `Catalogue.resolve`) or a `Recipe`. The
                default is what speed 1.83 selects on a tuned pair, otherwise, and with `sigmas`, "front".
            speed: Instead of a recipe: the most faithful one that needs at least this many times fewer FLOPs than the
                large model. On a tuned pair it may take fewer steps than `num_inference_steps`. On others the report
                warns that the recipe is one that needs no calibration.
            region: Left, top, right, bottom in pixels. The large model renders its tokens at every step; the shares
                of the recipe are then those of the other tokens.
            lora: The LoRA adapters that act, with their scales, such as {"style": 0.8}; {} for none. The default is
                those that were loaded with a scale.
            on_step: Called after every step with the numbers of its pictures and the `Step`; an exception ends the
                call.
            height, width: Pixels, see `size_limits`; the default size of the pair.
            sigmas: Noise levels before the shift, falling from at most 1. They replace `num_inference_steps`.
            guidance_scale: 4.5 by default, as everywhere in this project; diffusers has 7.0.
            max_sequence_length: Tokens for the third text encoder; 256 by default, 0 for pairs without it.
            prompt_embeds, pooled_prompt_embeds and their negative forms: What `encode_prompt` returns, instead of
                texts. `negative_prompt` may replace the negative half.
            callback_on_step_end: Called after every step with this pipeline, the step, its timestep and the tensors
                named in `callback_on_step_end_tensor_inputs`. Tensors in the dictionary that it returns replace those
                of the following steps. An exception ends the generation. Plans that look at the picture generate
                pictures one by one: it then sees one at a time, from step 0 for each.
            callback_on_step_end_tensor_inputs: Any of `latents`, `prompt_embeds` and `pooled_prompt_embeds`, the last
                two with the negative half first.
            output_type: `pil`, `np`, `pt` or `latent`.
            return_dict: False returns a tuple `(images,)` without the report.
            joint_attention_kwargs: `{"scale": …}`, the weight of LoRA adapters; anything else is refused.
            skip_guidance_layers: Layers for skip-layer guidance, as in diffusers: those of both models, or of each by
                name, `{"small": [7, 8, 9]}`. A list may name layers that the small model does not have.
            skip_layer_guidance_scale, skip_layer_guidance_start, skip_layer_guidance_stop: Its weight, and the shares
                of the steps between which it runs.
            ip_adapter_image, ip_adapter_image_embeds, mu: Refused.

        Returns:
            An `Output`.

        Raises:
            InvalidInput: A ValueError that names every wrong argument, before any work.
            FloatingPointError: Latents or pictures are not finite.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        call = validate_call(self, self.catalogue, given)
        after = partial(AfterStep, self, callback_on_step_end, call.tensor_inputs)
        with exclusive(self.large, self.small), self.adapters.acting(call.generation.lora):
            out = self._run(call.generation, generator, latents, output_type, after, on_step)
        return out if return_dict else (out.images,)

    def validate(self, prompt: str | list[str] | None = None, **arguments: Any) -> Generation:
        """Validate the arguments of a call without running it.

        Args:
            prompt: As in a call.
            arguments: Other arguments of a call. The seeds are those of `generator`. `latents`, `output_type` and
                functions are validated, but are no part of a generation.

        Returns:
            The generation, for `generate`.

        Raises:
            InvalidInput: Names every wrong argument.
        """
        given = inspect.signature(type(self).__call__).bind(self, prompt, **arguments)
        given.apply_defaults()
        return validate_call(self, self.catalogue, given.arguments).generation

    @torch.no_grad()
    def generate(
        self, generation: Generation, *, on_step: StepWatcher | None = None, output_type: str = "pil"
    ) -> Output:
        """Run a validated generation. Only the state of the models is checked again, since it may have changed.

        Args:
            generation: From `validate`, or from a request that was parsed with this pipeline's catalogue and limits.
            on_step: Called after every step.
            output_type: `pil`, `np`, `pt` or `latent`.

        Raises:
            InvalidInput: Something is attached to the models that the generation would bypass.
            FloatingPointError: Latents or pictures are not finite.
        """
        problems = pair_problems(self, generation.recipe, generation.region, generation.sigmas)
        raise_problems(problems + self.adapters.problems(generation.lora or {}))
        generation = replace(generation, lora=self.adapters.usual if generation.lora is None else generation.lora)
        after = partial(AfterStep, self, None, ())
        with exclusive(self.large, self.small), self.adapters.acting(generation.lora):
            return self._run(generation, generation.generators(), None, output_type, after, on_step)

    def _run(
        self,
        generation: Generation,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
        output_type: str,
        after_step: Callable[[GuidedModel, GuidedModel], AfterStep],
        on_step: StepWatcher | None,
    ) -> Output:
        watch = Stopwatch(self.device)
        recipe, guided, pictures = generation.recipe, generation.guided, generation.pictures
        assert recipe is not None, "a generation for a pair has a recipe"
        length = self.prompts.length(generation.encoding)
        context, pooled = self.prompts.cached(guided, generation.prompts, generation.encoding)
        latents = self._pipeline.prepare_latents(
            pictures, self.large.config.in_channels, generation.height, generation.width, context.dtype,
            context.device, generator, latents,
        )  # fmt: skip
        watch.lap("encode")

        schedule = list(generation.sigmas or ()) or recipe.schedule(generation.num_inference_steps)
        region = generation.region
        run = recipe if region is None else with_region(recipe, region, self.size_limits.multiple_of)
        # A plan that looks at the picture may decide otherwise for each: such pictures are generated one by one.
        together = 1 if recipe.plan.adaptive else pictures
        done, work = [], []
        for group in (range(first, first + together) for first in range(0, pictures, together)):
            scheduler = scheduled(self._pipeline.scheduler, schedule, latents.device)
            attached = (scheduler.timesteps, generation.lora_scale, run.text == "kept")
            skips = [generation.skip_layers.get(name) for name in ("large", "small")]
            embeds = [rows_of(each, group, pictures, guided) for each in (context, pooled)]
            scale, own = generation.guidance_scale, latents[group.start : group.stop]
            large = GuidedModel(self.large, embeds[0], embeds[1], scale, run.plan.masked, skips[0], *attached)
            given = (self.small, embeds[0], embeds[1], scale, recipe.fill.cached, skips[1], *attached)
            small = GuidedModel(*given) if self.small_device is None else PlacedModel(self.small_device, *given)
            recorder = Recorder(large, small, own)
            watchers: list[Callable[[Step], None]] = [recorder.step, *([partial(on_step, group)] if on_step else [])]
            done.append(self._denoise(own, large, small, run, watchers, scheduler, after_step(large, small)))
            work.append(recorder.work(generation.num_inference_steps))
        latents = torch.cat(done)
        if not torch.isfinite(latents).all():
            raise FloatingPointError("latents: not finite after denoising; a wider dtype than this one may help")
        watch.lap("denoise")
        images = latents if output_type == "latent" else self.decode(latents, output_type)
        watch.lap("decode")

        warnings = self.prompts.warnings(guided, generation.prompts.texts, length)
        dtype = dtype_name(self.dtype)
        report = Report(
            generation, timing_ms=watch.timing_ms, dtype=dtype, warnings=warnings, groups=work, **merged(work)
        )
        return Output(images, report)

    def _denoise(
        self,
        latents: Tensor,
        large: GuidedModel,
        small: GuidedModel,
        recipe: Recipe,
        watchers: Sequence[Callable[[Step], None]],
        scheduler: Any,
        after: AfterStep,
    ) -> Tensor:
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

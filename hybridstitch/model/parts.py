"""The parts of a pair under diffusers' names, memory options of the autoencoder, and a fingerprint of the weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from hybridstitch.base.mark import mark
from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.compile import compile_blocks
from hybridstitch.model.exclusive import exclusive
from hybridstitch.model.lora import Adapters
from hybridstitch.model.offload import Offload
from hybridstitch.model.prompts import PromptEncoder
from hybridstitch.model.quantise import plain_values, saving_problems
from hybridstitch.model.size_limits import SizeLimits

PARTS = (
    *("vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3"),
    *("tokenizer", "tokenizer_2", "tokenizer_3", "image_processor", "vae_scale_factor"),
)
"""Attributes that both models share, under diffusers' names."""


class Parts:
    """The attributes that `HybridStitchPipeline` shares with `StableDiffusion3Pipeline`.

    Reading or setting another attribute of diffusers' pipeline raises AttributeError.
    """

    _pipeline: StableDiffusion3Pipeline
    small: SD3Transformer2DModel
    size_limits: SizeLimits
    prompts: PromptEncoder
    adapters: Adapters
    offloaded: Offload | None = None
    """What waits on the CPU for its turn; None if every part stays where `to` moved it."""

    marks: bool = True
    """Whether pictures carry the mark of generated media, see `hybridstitch.base.mark`."""

    small_device: torch.device | None = None
    """Device of the small model, if it is not that of the other parts."""

    @property
    def large(self) -> SD3Transformer2DModel:
        return self._pipeline.transformer

    @large.setter
    def large(self, transformer: SD3Transformer2DModel) -> None:
        self._pipeline.transformer = transformer

    transformer = large

    @property
    def components(self) -> dict[str, Any]:
        """The parts under diffusers' names; `transformer` is the large one."""
        return dict(self._pipeline.components)

    @property
    def device(self) -> torch.device:
        """Where the large model runs."""
        return self.large.device if self.offloaded is None else self.offloaded.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the large model's weights."""
        return self.large.dtype

    def __getattr__(self, name: str) -> Any:
        if name in PARTS:
            return getattr(self._pipeline, name)
        raise AttributeError(_unknown(name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS:
            setattr(self._pipeline, name, value)
        elif name != "_pipeline" and not hasattr(type(self), name) and _of_diffusers(name):
            raise AttributeError(_unknown(name))  # setting it would have no effect
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        parts = {"large": self.large, "small": self.small}
        parts |= {name: part for name, part in self.components.items() if name != "transformer" and part is not None}
        lines = [f"  {name}: {_described(part)}" for name, part in parts.items()]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def to(self, *args: Any, **options: Any) -> Self:
        """Move every part or change its dtype: `to("cuda")`, `to(torch.float16)`, `to("cuda", torch.float16)`."""
        self._check_stays("to")
        with exclusive(self._pipeline.transformer, self.small):  # not during a generation of another thread
            self._pipeline.to(*args, **options)
            options.pop("silence_dtype_warnings", None)
            self.small.to(*args, **options)
            self._note_devices()
        return self

    def offload(self, device: torch.device | str, *, text_encoders: str = "device", offload: str = "model") -> Self:
        """Let parts wait on the CPU until they run on a device, for pairs that do not fit on it as a whole.

        Args:
            device: where the models run, such as "cuda". The pair must be on the CPU.
            text_encoders: "device"; "cpu": they stay there, and run there; "offload": they wait between two prompts.
            offload: "none"; "model": one part at a time is on the device; "group": one block of each transformer.
        """
        if self.offloaded is not None:
            raise ValueError("offload: expected a pair that is not offloaded yet, got one that is")
        if self.small_device is not None:
            raise ValueError("offload: expected a pair on one device, got one on two")
        parts = {name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)}
        with exclusive(self._pipeline.transformer, self.small):
            place = torch.device(device)
            self.offloaded = Offload(parts | {SMALL_FOLDER: self.small}, place, text_encoders, offload)
            self.prompts.offloaded = self.offloaded
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keep one part at a time on the GPU, as in diffusers. Both transformers change places at every hybrid step.

        Args:
            gpu_id: number of the GPU.
            device: instead of it, a device; by default the GPU.

        Raises:
            InvalidInput: There is no GPU, and `device` is None.
        """
        if device is None:
            if not torch.cuda.is_available():
                raise InvalidInput([Problem("device", "a device: torch finds no GPU here", None)])
            device = torch.device("cuda", gpu_id or 0)
        self.offload(device)

    def compile(self, cache: str | Path | None = None, **options: Any) -> None:
        """Compile the blocks of both models. The first pictures then take long; later ones are faster.

        Args:
            cache: The folder where torch keeps compiled code between processes; by default torch's own choice.
            options: Those of `torch.compile`, such as `mode="max-autotune"`.
        """
        with exclusive(self.large, self.small):
            for model in (self.large, self.small):
                compile_blocks(model, cache, **options)

    def load_lora_weights(
        self, path: str | Path, model: str = "large", adapter_name: str | None = None, scale: float = 1.0
    ) -> str:
        """Load a LoRA adapter, which acts in every later call that names no adapters itself.

        Args:
            path: A safetensors file with tensors under diffusers' names.
            model: The model that it was trained for, "large" or "small".
            adapter_name: Name for `lora` of a call. A second file under a name has to be for the other model.
            scale: Factor of its weights, -10 to 10. With 0 it acts only in calls that name it.

        Returns:
            The name of the adapter.

        Raises:
            InvalidInput: The file does not fit the model, or an argument is wrong.
            MissingExtra: peft is not installed.
        """
        with exclusive(self.large, self.small):
            return self.adapters.load(path, model, adapter_name, scale)

    def unload_lora_weights(self, adapter_name: str | None = None) -> None:
        """Remove a LoRA adapter, or all of them. Without any the pipeline generates the pictures of the pair again."""
        with exclusive(self.large, self.small):
            self.adapters.unload(adapter_name)

    @torch.no_grad()
    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Decode latents, or the `denoised` of a `Step`. Raises FloatingPointError for pictures that are not finite."""
        vae = self._pipeline.vae
        decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
        if not torch.isfinite(decoded).all():
            raise FloatingPointError("picture: not finite after decoding; a wider dtype than this one may help")
        pictures = self._pipeline.image_processor.postprocess(decoded, output_type=output_type)
        if self.marks and output_type == "pil":
            for picture in pictures:
                mark(picture)
        return pictures

    def check_saving(self) -> None:
        """Raise InvalidInput if something is loaded that `save_pretrained` cannot write."""
        self.adapters.refuse("a pair is saved")
        raise_problems(saving_problems(self.components["text_encoder_3"]))

    def to_devices(self, large: torch.device | str, small: torch.device | str) -> Self:
        """Move the small model to one device and all other parts to another: `to_devices("cuda:0", "cuda:1")`.

        At hybrid steps both models then run at once. Pictures are the same as on one device.
        """
        self._check_stays("to_devices")
        with exclusive(self._pipeline.transformer, self.small):
            self._pipeline.to(large)
            self.small.to(small)
            self._note_devices()
        return self

    def _check_stays(self, what: str) -> None:
        if self.offloaded is not None:
            raise ValueError(f"{what}: expected a pair whose parts stay on their device, got one that is offloaded")

    def _note_devices(self) -> None:
        self.small_device = None if self.small.device == self.large.device else self.small.device

    def set_progress_bar_config(self, **config: Any) -> None:
        """Set arguments of tqdm, such as `disable=True`, as in diffusers."""
        self._pipeline.set_progress_bar_config(**config)

    def enable_vae_tiling(self) -> None:
        """Decode pictures in tiles, which saves memory for large ones."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Decode pictures as a whole."""
        self.vae.disable_tiling()

    def enable_vae_slicing(self) -> None:
        """Decode the pictures of a batch one by one, which saves memory."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode the pictures of a batch together."""
        self.vae.disable_slicing()


def fingerprint(pair: Parts) -> str:
    """16 hexadecimal digits: a hash of the first 64 numbers of every parameter, rounded to bfloat16.

    It differs between pairs, and is the same for every dtype of a pair.
    """
    digest = hashlib.sha256()
    for model in (pair.large, pair.small, pair.components["vae"], pair.components["text_encoder"]):
        for parameter in model.parameters():
            digest.update(plain_values(parameter.detach()).flatten()[:64].bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _of_diffusers(name: str) -> bool:
    """Whether diffusers' pipeline has this attribute, or a property that reads it as a private one."""
    return hasattr(StableDiffusion3Pipeline, name) or hasattr(StableDiffusion3Pipeline, name.removeprefix("_"))


def _unknown(name: str) -> str:
    if _of_diffusers(name):
        return f"HybridStitchPipeline has no {name!r}: this part of StableDiffusion3Pipeline is not supported"
    return f"'HybridStitchPipeline' object has no attribute {name!r}"


def _described(part: Any) -> str:
    if not isinstance(part, torch.nn.Module):
        return type(part).__name__
    count = sum(parameter.numel() for parameter in part.parameters())
    first = next(part.parameters())
    return f"{type(part).__name__}, {count / 1e6:.3g} M parameters, {str(first.dtype)[6:]} on {first.device}"

"""The memory that a pair needs, computed from its configurations and the headers of its files: nothing is loaded."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.model.files import ModelFiles
from hybridstitch.model.size_limits import SizeLimits

LARGE = "transformer"
"""The part that is the large transformer; `SMALL_FOLDER` is the small one."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number, by the dtype of the weights."""
STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Names of the floating point types in the header of a safetensors file."""
T5 = "text_encoder_3"
T5_TOKENS = 256
"""Tokens of the third text encoder by default."""
TRANSFORMER_DEFAULTS: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "num_layers": 18,
    "attention_head_dim": 64,
    "num_attention_heads": 18,
    "pos_embed_max_size": 96,
    "dual_attention_layers": (),
    "joint_attention_dim": 4096,
}
VAE_DEFAULTS: dict[str, Any] = {"block_out_channels": (64,)}
CLIP_DEFAULTS: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
T5_DEFAULTS: dict[str, Any] = {"d_model": 512, "d_ff": 2048, "num_heads": 8}
"""What the classes of the parts take for a key that a config.json lacks; a test compares all with the classes."""
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    LARGE: TRANSFORMER_DEFAULTS,
    SMALL_FOLDER: TRANSFORMER_DEFAULTS,
    "vae": VAE_DEFAULTS,
    "text_encoder": CLIP_DEFAULTS,
    "text_encoder_2": CLIP_DEFAULTS,
    T5: T5_DEFAULTS,
}
"""The parts whose configurations count."""

MODULATION, OF_TEXT, OF_SECOND = 7, 6, 3
"""Rows of the transformer's width that are live for each picture: the embedding of the timestep with shifts, scales
and gates of the image in a block; those of the text, and of a second attention."""
VAE_WIDE, VAE_NARROW = 4, 5
"""Pictures of the autoencoder's last two widths that are live at once in its last blocks, at full resolution."""
TABLE_BYTES = 16
"""Bytes for each element of a position table while diffusers computes it: both halves and the whole, in float64."""


@dataclass(frozen=True)
class Weights:
    """The weights of one part in its files.

    Attributes:
        stored: by floating point dtype the number of elements, which loaders convert.
        other_bytes: bytes of what loaders do not convert, such as integers of quantised weights.
        always_float32: number of elements that transformers keeps in float32 in a model loaded in float16.
        linear: number of elements of linear layers, which int8 quantises.
    """

    stored: Mapping[str, int]
    other_bytes: int = 0
    always_float32: int = 0
    linear: int = 0

    def bytes(self, dtype: str, int8: bool = False) -> int:
        """Bytes in memory with floating point weights of this dtype, and linear layers in int8 if wanted."""
        if int8:
            return self.bytes(dtype) - self.linear * (BYTES[dtype] - 1)
        kept = self.always_float32 if dtype == "float16" else 0
        return sum(self.stored.values()) * BYTES[dtype] + kept * (4 - BYTES[dtype]) + self.other_bytes

    def is_stored_as(self, dtype: str) -> bool:
        """Whether the files hold this dtype alone, so that a CPU maps them instead of copying them."""
        return self.stored.keys() <= {dtype}


@dataclass(frozen=True)
class MemoryPlan:
    """What a pair, or the large model alone, takes in memory.

    Attributes:
        weights: by part, in the order of the files.
        configs: configurations of `transformer`, `vae`, and of `transformer_small` and the text encoders that are
            there, with defaults.
        text_tokens: number of text tokens of a prompt.
        limits: sizes that the models can generate.
    """

    weights: Mapping[str, Weights]
    configs: Mapping[str, Mapping[str, Any]]
    text_tokens: int
    limits: SizeLimits

    @classmethod
    def of(cls, found: ModelFiles) -> Self:
        """The plan of the files that a loader would read. Their configurations must be valid."""
        paths: dict[str, list[Path]] = {}
        for name, path in found.files.items():
            if name.endswith(".safetensors"):
                paths.setdefault(name.partition("/")[0], []).append(path)
        files = {part: found.files.get(f"{part}/config.json") for part in DEFAULTS}
        configs = {part: {**DEFAULTS[part], **_json(path)} for part, path in files.items() if path}
        limits = SizeLimits.of_configs(configs[LARGE], configs.get(SMALL_FOLDER, configs[LARGE]), configs["vae"])
        return cls(
            {part: _read_weights(part, each) for part, each in paths.items()}, configs, _text_tokens(found), limits
        )

    def weight_bytes(self, dtype: str, int8: Collection[str] = ()) -> dict[str, int]:
        """By part, the bytes of its weights in this dtype; `int8` names the parts that are quantised."""
        return {part: weights.bytes(dtype, part in int8) for part, weights in self.weights.items()}

    def copied_bytes(self, dtype: str) -> int:
        """Bytes of weights that a CPU copies to memory: it maps the files of parts that are stored in this dtype."""
        return sum(each.bytes(dtype) for each in self.weights.values() if not each.is_stored_as(dtype))

    def kv_bytes(self, part: str, dtype: str, width: int, height: int, guided: bool = True) -> int:
        """Bytes of the K/V cache of one picture of this size, as `KVCache` allocates it.

        Args:
            part: `LARGE` or `SMALL_FOLDER`.
            dtype: of the weights.
            width, height: in pixels.
            guided: whether cond and uncond run.
        """
        config, image = self.configs[part], self.image_tokens(width, height)
        rows = config["num_layers"] * (image + self.text_tokens) + len(config["dual_attention_layers"]) * image
        return 2 * rows * _width(config) * BYTES[dtype] * (2 if guided else 1)

    def step_bytes(self, part: str, dtype: str, width: int, height: int, guided: bool = True) -> int:
        """Bytes of the activations of one dense forward for one picture; one on a subset of the tokens has fewer."""
        rows = _live_rows(self.configs[part], self.image_tokens(width, height), self.text_tokens)
        return rows * _width(self.configs[part]) * BYTES[dtype] * (2 if guided else 1)

    def decode_bytes(self, dtype: str, width: int, height: int) -> int:
        """Bytes of the activations of the autoencoder that decodes one picture."""
        widths = self.configs["vae"]["block_out_channels"]
        channels = max(VAE_NARROW * widths[0], VAE_WIDE * widths[min(1, len(widths) - 1)])
        return channels * width * height * BYTES[dtype]

    def encode_bytes(self, dtype: str) -> int:
        """Bytes of the activations of the text encoder that needs most, for one prompt. Cond and uncond run in turn."""
        clip = self.text_tokens - (T5_TOKENS if T5 in self.configs else 0)
        found = [0]
        for part in ("text_encoder", "text_encoder_2"):
            if part in self.configs:  # the MLP of the last layer; the output of every layer is kept
                width, hidden, layers = (self.configs[part][name] for name in CLIP_DEFAULTS)
                found.append(clip * ((layers + 2) * width + 3 * hidden))
        if T5 in self.configs:
            width, hidden, heads = (self.configs[T5][name] for name in T5_DEFAULTS)
            found.append(T5_TOKENS * (4 * width + 4 * hidden + heads * T5_TOKENS))
        return max(found) * BYTES[dtype]

    def prompt_bytes(self, dtype: str, guided: bool = True) -> int:
        """Bytes of the prompt embeddings of one picture: those of the call, and a copy for its group of pictures."""
        width = self.configs[LARGE]["joint_attention_dim"]
        return 2 * self.text_tokens * width * BYTES[dtype] * (2 if guided else 1)

    def activation_bytes(self, dtype: str, width: int, height: int, guided: bool = True) -> int:
        """Bytes of the activations of one picture at their peak: in a text encoder, a step or the decoder."""
        steps = (self.step_bytes(part, dtype, width, height, guided) for part in self.transformers)
        return max(*steps, self.encode_bytes(dtype), self.decode_bytes(dtype, width, height))

    def picture_bytes(
        self, dtype: str, width: int, height: int, guided: bool = True, cached: tuple[str, ...] = (LARGE,)
    ) -> int:
        """Bytes for each picture of a forward, beside the weights: prompt embeddings, K/V caches and activations.

        Args:
            dtype: of the weights.
            width, height: in pixels.
            guided: whether cond and uncond run.
            cached: the transformers with a K/V cache: the large one by default, both with the fill `small-rest`.
        """
        kept = sum(self.kv_bytes(part, dtype, width, height, guided) for part in cached) + self.prompt_bytes(
            dtype, guided
        )
        return kept + self.activation_bytes(dtype, width, height, guided)

    def loading_bytes(self) -> int:
        """Bytes that a load needs for a moment beside the weights: diffusers computes the position tables."""
        configs = [self.configs[part] for part in self.transformers]
        return max(TABLE_BYTES * config["pos_embed_max_size"] ** 2 * _width(config) for config in configs)

    def largest_side(self, free: int, dtype: str) -> int:
        """The largest side of a square picture that `free` bytes beside the weights suffice for; 0 if none."""
        limits = self.limits
        sides = range(limits.minimum, limits.maximum + 1, limits.multiple_of)
        return max((side for side in sides if self.picture_bytes(dtype, side, side) <= free), default=0)

    def image_tokens(self, width: int, height: int) -> int:
        """The number of image tokens of a picture."""
        return math.ceil(width / self.limits.multiple_of) * math.ceil(height / self.limits.multiple_of)

    @property
    def transformers(self) -> list[str]:
        """The transformers, the large one first."""
        return [part for part in (LARGE, SMALL_FOLDER) if part in self.configs]


def _live_rows(config: Mapping[str, Any], image: int, text: int) -> int:
    """The most rows of the transformer's width that are live at once in a dense forward.

    That is where the activation of an MLP runs. Its hidden layer is live before and after the activation, four rows of
    each token. So are what entered the block, what the attention added to it, and what enters the MLP.
    """
    last = config["num_layers"] - 1
    second = {layer == last for layer in config["dual_attention_layers"]}
    # The last block drops the text, and keeps the output of the attention to image and text until its end.
    found = [13 * image + 3 * text + MODULATION + (2 * image + OF_SECOND) * (True in second)]
    if last > 0:
        more = MODULATION + OF_TEXT + (2 * image + OF_SECOND) * (False in second)
        found += [12 * image + 3 * text + more, 5 * image + 12 * text + more]  # the MLP of the image, then of the text
    return max(found)


def _width(config: Mapping[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def _text_tokens(found: ModelFiles) -> int:
    """Tokens of a prompt: those of CLIP and, with a third text encoder, T5's."""
    places = _json(found.files["text_encoder/config.json"]).get("max_position_embeddings", 77)
    settings = found.files.get("tokenizer/tokenizer_config.json")
    longest = _json(settings).get("model_max_length", places) if settings else places
    return int(min(longest, places)) + (T5_TOKENS if f"{T5}/config.json" in found.files else 0)


def _read_weights(part: str, paths: list[Path]) -> Weights:
    stored: Counter[str] = Counter()
    others = kept = linear = 0
    for path in paths:
        for name, tensor in _header(path).items():
            if name == "__metadata__":
                continue
            count, (start, stop) = math.prod(tensor["shape"]), tensor["data_offsets"]
            if tensor["dtype"] in STORED:
                stored[STORED[tensor["dtype"]]] += count
                linear += count if _is_linear(name, tensor["shape"]) else 0
                kept += count if part == T5 and ".wo." in name else 0
            else:
                others += stop - start
    return Weights(dict(stored), others, kept, linear)


def _is_linear(name: str, shape: list[int]) -> bool:
    tables = ("embedding.weight", "embed_tokens.weight", "shared.weight", "relative_attention_bias.weight")
    return len(shape) == 2 and name.endswith(".weight") and not name.endswith(tables)


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: its length in eight bytes, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))

"""The memory plan against what real models allocate, and the free memory of the machine."""

from __future__ import annotations

import inspect
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.bench.scale_models import SHAPES, TEXT_TOKENS, cut, random_transformer
from hybridstitch.model.free_memory import free_memory, read_group, total_memory
from hybridstitch.model.memory import (
    CLIP_DEFAULTS,
    LARGE,
    T5,
    T5_DEFAULTS,
    T5_TOKENS,
    TRANSFORMER_DEFAULTS,
    VAE_DEFAULTS,
    MemoryPlan,
    Weights,
)
from hybridstitch.model.mmdit import KVCache, cached_attention, mmdit_forward
from hybridstitch.model.pair import find_files
from hybridstitch.model.quantise import stored_bytes
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.testing.toys import tiny_transformer
from tests.support.peak_memory import peak_bytes
from tests.support.tiny import load_pipeline, make_pair_folder

DTYPES = ("float32", "bfloat16")
GIB = 2**30


@pytest.fixture(scope="module", params=["emoji", "tiny", "sd3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of every layout of transformers."""
    if request.param == "sd3":
        return make_pair_folder(tmp_path_factory.mktemp("sd3") / "pair", "sd3", "sd3")
    return request.getfixturevalue(request.param)


def plan_of(folder: Path) -> MemoryPlan:
    return MemoryPlan.of(find_files(folder, None, None))


def held(module: torch.nn.Module) -> int:
    tensors = chain(module.parameters(), module.buffers())
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_the_weights_are_those_of_the_loaded_parts(folder: Path, dtype: str) -> None:
    pipe, planned = load_pipeline(folder, dtype=dtype), plan_of(folder).weight_bytes(dtype)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    parts[SMALL_FOLDER] = pipe.small
    assert planned.keys() == parts.keys()
    for name, part in parts.items():
        assert planned[name] == pytest.approx(held(part), rel=0.02), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("guided", [True, False])
def test_the_caches_are_those_of_a_real_forward(folder: Path, dtype: str, guided: bool) -> None:
    pipe, plan = load_pipeline(folder, dtype=dtype), plan_of(folder)
    width, height = pipe.size_limits.maximum, pipe.size_limits.maximum // 2
    inputs = forward_inputs(pipe.large, plan, width, height, 2 if guided else 1)
    for part, model in ((LARGE, pipe.large), (SMALL_FOLDER, pipe.small)):
        cache = KVCache()
        with torch.no_grad(), cached_attention(model):
            mmdit_forward(model, *inputs, kv_cache=cache)
        layers = [cache.joint(layer) for layer in range(model.config.num_layers)]
        layers += [cache.image_only(layer) for layer in model.config.dual_attention_layers]
        real = sum(tensor.nbytes for keys_and_values in layers for tensor in keys_and_values)
        assert plan.kv_bytes(part, dtype, width, height, guided) == real


@pytest.mark.parametrize("layout", ["sd3", "sd35-large", "sd35-medium"])
@pytest.mark.parametrize(
    ("side", "text", "dtype"),
    # In the last there is more text than image. At toy width bfloat16's buffers of a CPU's attention are larger there.
    [(128, 32, "float32"), (128, 32, "bfloat16"), (256, 32, "bfloat16"), (64, 96, "float32")],
)
def test_the_activations_are_those_of_a_real_forward(layout: str, dtype: str, side: int, text: int) -> None:
    sizes = {"attention_head_dim": 64, "heads": 3, "caption_projection_dim": 192, "pos_embed_max_size": 64}
    model = tiny_transformer(layout, **sizes, sample_size=64).to(getattr(torch, dtype))
    plan = MemoryPlan({}, {LARGE: model.config, "vae": {}}, text, SizeLimits(8, 8, 256, (256, 256)))
    for pictures, guided in ((1, True), (1, False), (4, True)):
        inputs = forward_inputs(model, plan, side, side, pictures * (2 if guided else 1))
        with torch.no_grad():
            peak = peak_bytes(lambda inputs=inputs: mmdit_forward(model, *inputs))
        assert pictures * plan.step_bytes(LARGE, dtype, side, side, guided) == pytest.approx(peak, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SD3.5-Large", "SD3.5-Medium"])
def test_activations_and_cache_at_true_width(name: str) -> None:
    """The first two layers, 512 px, as many text tokens as with all three encoders."""
    model = random_transformer(cut(SHAPES[name], 2), torch.bfloat16, "cpu")
    plan = MemoryPlan({}, {LARGE: {**model.config}, "vae": {}}, TEXT_TOKENS, SizeLimits(16, 16, 1024, (1024, 1024)))
    inputs, cache = forward_inputs(model, plan, 512, 512, 1), KVCache()
    with torch.no_grad(), cached_attention(model):
        peak = peak_bytes(lambda: mmdit_forward(model, *inputs, kv_cache=cache))
    step, kept = (each(LARGE, "bfloat16", 512, 512, False) for each in (plan.step_bytes, plan.kv_bytes))
    assert step + kept == pytest.approx(peak, rel=0.02)


@pytest.mark.parametrize("layout", ["sd35-large", "sd35-medium"])
def test_a_subset_needs_less_than_a_dense_forward(layout: str) -> None:
    sizes = {"attention_head_dim": 64, "heads": 3, "caption_projection_dim": 192, "pos_embed_max_size": 64}
    model = tiny_transformer(layout, **sizes, sample_size=64)
    plan = MemoryPlan({}, {LARGE: model.config, "vae": {}}, 32, SizeLimits(8, 8, 256, (256, 256)))
    inputs, cache = forward_inputs(model, plan, 256, 256, 2), KVCache()
    planned = plan.step_bytes(LARGE, "float32", 256, 256)
    with torch.no_grad(), cached_attention(model):
        mmdit_forward(model, *inputs, kv_cache=cache)
        assert peak_bytes(lambda: mmdit_forward(model, *inputs, kv_cache=cache)) == pytest.approx(planned, rel=0.02)
        tokens = torch.arange(300).expand(2, -1)
        assert peak_bytes(lambda: mmdit_forward(model, *inputs, tokens, cache)) < 0.35 * planned


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_activations_of_text_encoders(dtype: str) -> None:
    """Shapes of a layer as in the true encoders: a hidden layer of four widths in CLIP, and of 2.5 in T5."""
    clip = CLIPTextConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=5, num_attention_heads=2, projection_dim=64,
        vocab_size=99, eos_token_id=98,
    )  # fmt: skip
    t5 = T5Config(
        d_model=1024, d_ff=2560, num_layers=2, num_heads=16, d_kv=64, vocab_size=99, feed_forward_proj="gated-gelu"
    )
    configs: dict[str, Any] = {"text_encoder": clip.to_dict(), T5: t5.to_dict()}
    ids = torch.full((1, T5_TOKENS), 98)
    models = {"text_encoder": CLIPTextModelWithProjection(clip), T5: T5EncoderModel(t5)}
    for part, options in (("text_encoder", {"output_hidden_states": True}), (T5, {})):
        tokens = 77 + T5_TOKENS if part == T5 else 77
        plan = MemoryPlan({}, {part: configs[part]}, tokens, SizeLimits(8, 8, 256, (256, 256)))
        model = models[part].to(getattr(torch, dtype)).eval()
        with torch.no_grad():
            peak = peak_bytes(
                lambda model=model, part=part, options=options: model(ids if part == T5 else ids[:, :77], **options)
            )
        assert plan.encode_bytes(dtype) == pytest.approx(peak, rel=0.02), part


def forward_inputs(
    model: SD3Transformer2DModel, plan: MemoryPlan, width: int, height: int, batch: int
) -> list[torch.Tensor]:
    config, cell = model.config, plan.limits.multiple_of // model.config.patch_size
    return [
        torch.randn(batch, config.in_channels, height // cell, width // cell, dtype=model.dtype),
        torch.full((batch,), 500.0),
        torch.randn(batch, plan.text_tokens, config.joint_attention_dim, dtype=model.dtype),
        torch.randn(batch, config.pooled_projection_dim, dtype=model.dtype),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_call_stays_within_the_plan(emoji: Path, dtype: str) -> None:
    pipe, plan = load_pipeline(emoji, dtype=dtype), plan_of(emoji)
    for pictures, recipe, parts in ((1, "hybridstitch", (LARGE,)), (3, "hybridstitch", (LARGE,)), (2, "large", ())):
        prompts = ["a red apple on blue"] * pictures
        peak = peak_bytes(lambda prompts=prompts, recipe=recipe: pipe(prompts, num_inference_steps=3, recipe=recipe))
        planned = pictures * plan.picture_bytes(dtype, 128, 128, cached=parts)
        assert 0.75 * planned <= peak <= planned, (pictures, recipe)


@pytest.mark.parametrize("widths", [(16, 32, 64), (32, 32), (32, 64, 64, 64)])
def test_the_decoder(widths: tuple[int, ...], emoji: Path) -> None:
    levels = len(widths)
    vae = AutoencoderKL(
        block_out_channels=widths, layers_per_block=2, latent_channels=4, norm_num_groups=16, use_quant_conv=False,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        use_post_quant_conv=False,
    ).eval()  # fmt: skip
    side = 128 // 2 ** (levels - 1)
    with torch.no_grad():
        peak = peak_bytes(lambda: vae.decode(torch.zeros(1, 4, side, side)))
    plan = plan_of(emoji)
    plan = MemoryPlan(plan.weights, {**plan.configs, "vae": {"block_out_channels": widths}}, 0, plan.limits)
    assert 0.98 * peak <= plan.decode_bytes("float32", 128, 128) <= 1.15 * peak


def full_size() -> MemoryPlan:
    """SD3.5-Large and Medium, without weights."""
    shared = {"patch_size": 2, "sample_size": 128, "attention_head_dim": 64, "joint_attention_dim": 4096}
    configs: dict[str, Any] = {
        LARGE: {**shared, "num_layers": 38, "num_attention_heads": 38, "pos_embed_max_size": 192},
        SMALL_FOLDER: {**shared, "num_layers": 24, "num_attention_heads": 24, "pos_embed_max_size": 384},
        "vae": {"block_out_channels": (128, 256, 512, 512)},
    }
    configs[LARGE]["dual_attention_layers"], configs[SMALL_FOLDER]["dual_attention_layers"] = (), tuple(range(13))
    limits = plan_of(Path("models/emoji")).limits.of_configs(*configs.values())
    return MemoryPlan({}, configs, 333, limits)


def test_figures_of_full_size() -> None:
    """As measured once with true shapes."""
    plan, found = full_size(), {}
    for side in (512, 1024, 1536, 2048, 3072):
        found[side] = round(plan.kv_bytes(LARGE, "bfloat16", side, side) / GIB, 2)
    assert found == pytest.approx({512: 0.94, 1024: 3.05, 1536: 6.6, 2048: 11.5, 3072: 25.6}, rel=0.02)
    assert plan.kv_bytes(SMALL_FOLDER, "float32", 1024, 1024) / GIB == pytest.approx(3.65, rel=0.02)
    assert plan.loading_bytes() / GIB == pytest.approx(3.37, rel=0.02)
    assert plan.largest_side(10 * GIB, "bfloat16") == 1456
    assert plan.largest_side(1000 * GIB, "bfloat16") == 3072
    assert plan.largest_side(1, "bfloat16") == 0


def test_quantised_weights(emoji: Path) -> None:
    pipe = load_pipeline(emoji, dtype="float32", quantise={"large": "int8"})
    planned = plan_of(emoji).weight_bytes("float32", {LARGE})
    assert planned[LARGE] == pytest.approx(stored_bytes(pipe.large), rel=0.02)
    assert planned[SMALL_FOLDER] == stored_bytes(pipe.small)


def test_what_loaders_do_not_convert() -> None:
    weights = Weights({"bfloat16": 10}, other_bytes=7, always_float32=2)
    assert [weights.bytes(dtype) for dtype in ("float32", "bfloat16", "float16")] == [47, 27, 31]
    assert weights.is_stored_as("bfloat16")
    assert not weights.is_stored_as("float16")


@pytest.mark.parametrize(
    ("kind", "defaults"), [(SD3Transformer2DModel, TRANSFORMER_DEFAULTS), (AutoencoderKL, VAE_DEFAULTS)]
)
def test_defaults_are_those_of_diffusers(kind: type, defaults: dict[str, Any]) -> None:
    parameters = inspect.signature(kind.__init__).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


@pytest.mark.parametrize(("kind", "defaults"), [(CLIPTextConfig, CLIP_DEFAULTS), (T5Config, T5_DEFAULTS)])
def test_defaults_are_those_of_transformers(kind: type, defaults: dict[str, Any]) -> None:
    assert {name: getattr(kind(), name) for name in defaults} == defaults


def test_the_free_memory_is_what_the_machine_reports() -> None:
    machine = psutil.virtual_memory()
    assert 0 < free_memory() <= total_memory() <= machine.total
    assert free_memory() <= machine.available * 1.1


def test_the_limit_of_a_container(tmp_path: Path) -> None:
    assert read_group(tmp_path) is None
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 50\nactive_file 20\n")
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert read_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert read_group(tmp_path) == (1000, 400, 70)

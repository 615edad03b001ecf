"""Int8 weights by torchao on real tiny models: accuracy, memory, the recipes, and both endpoints."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, TorchAoConfig
from PIL import Image
from torchao.quantization import Int8WeightOnlyConfig
from transformers import T5Config, T5EncoderModel

from hybridstitch import HybridStitchPipeline, InvalidInput, Recipe
from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.fills import SmallRest
from hybridstitch.model.parts import fingerprint
from hybridstitch.model.quantise import is_quantised, quantise, saving_problems, stored_bytes
from hybridstitch.plans import Staged
from hybridstitch.serving.server.pack import pack
from tests.support.adapters import save_lora
from tests.support.handlers import CONFIG, call, make_handler
from tests.support.tiny import load_pipeline

BOTH = {"large": "int8", "small": "int8"}
STITCHED = Recipe(Staged(large=0.4, hybrid=0.4, share=0.3))


def drawn(pipe: HybridStitchPipeline, recipe: str | Recipe, **call) -> torch.Tensor:
    fields = {"num_inference_steps": 6, "output_type": "latent", "width": 48, "height": 48}
    return pipe("a red apple", generator=torch.Generator().manual_seed(0), recipe=recipe, **fields, **call).images


@pytest.fixture(scope="module")
def pipes() -> dict[str, HybridStitchPipeline]:
    """The embedded pair in float32, in bfloat16, and both with int8 weights."""
    options = {"wide": {"dtype": "float32"}, "narrow": {"dtype": "bfloat16"}}
    options |= {f"{name} int8": each | {"quantise": BOTH} for name, each in options.items()}
    return {name: load_pipeline(EMBEDDED_PAIR, **each) for name, each in options.items()}


@pytest.mark.parametrize("recipe", ["large", "small", STITCHED, "small-rest"], ids=str)
def test_the_deviation_is_of_the_order_of_that_of_bfloat16(pipes, recipe) -> None:
    if recipe == "small-rest":
        recipe = Recipe(STITCHED.plan, fill=SmallRest())
    wide = drawn(pipes["wide"], recipe)

    def deviation(name: str) -> float:
        return float((drawn(pipes[name], recipe).float() - wide).pow(2).mean().sqrt() / wide.std())

    half, quantised, both = (deviation(name) for name in ("narrow", "wide int8", "narrow int8"))
    assert 0 < quantised < max(5 * half, 0.05)
    assert 0 < both < max(5 * half, 0.05)


def test_the_weights_take_a_quarter_of_float32_and_half_of_bfloat16(pipes) -> None:
    for model in ("large", "small"):
        size = {name: stored_bytes(getattr(pipe, model)) for name, pipe in pipes.items()}
        assert size["wide int8"] < 0.30 * size["wide"]
        assert size["narrow int8"] < 0.56 * size["narrow"]
        linear = [each for each in getattr(pipes["wide int8"], model).modules() if isinstance(each, torch.nn.Linear)]
        assert all(is_quantised(each) for each in linear)


def test_one_part_alone_leaves_the_other(tiny: Path) -> None:
    plain, quantised = load_pipeline(tiny), load_pipeline(tiny, quantise={"large": "int8", "small": None})
    assert torch.equal(drawn(plain, "small"), drawn(quantised, "small"))
    assert not torch.equal(drawn(plain, "large"), drawn(quantised, "large"))
    assert fingerprint(plain) != fingerprint(quantised)


def test_a_saved_pair_keeps_its_int8_weights_and_a_folder_that_has_them_loads(tiny: Path, tmp_path: Path) -> None:
    quantised = load_pipeline(tiny, quantise=BOTH)
    quantised.save_pretrained(tmp_path / "saved")
    assert torch.equal(drawn(load_pipeline(tmp_path / "saved"), STITCHED), drawn(quantised, STITCHED))
    # The same by diffusers alone; a second quantisation changes nothing.
    load_pipeline(tiny).save_pretrained(tmp_path / "theirs")
    for part in ("transformer", "transformer_small"):
        config = TorchAoConfig(Int8WeightOnlyConfig())
        model = SD3Transformer2DModel.from_pretrained(
            tiny, subfolder=part, quantization_config=config, dtype=torch.float32
        )
        (tmp_path / "theirs" / part / "diffusion_pytorch_model.safetensors").unlink()
        model.save_pretrained(tmp_path / "theirs" / part)
    for options in ({}, {"quantise": BOTH}):
        loaded = load_pipeline(tmp_path / "theirs", dtype="float32", **options)
        assert all(is_quantised(each) for each in loaded.large.modules() if isinstance(each, torch.nn.Linear))
        torch.testing.assert_close(drawn(loaded, STITCHED), drawn(quantised, STITCHED), atol=1e-3, rtol=1e-3)


def test_adapters_act_on_quantised_weights(tiny: Path, tmp_path: Path) -> None:
    plain, quantised = load_pipeline(tiny), load_pipeline(tiny, quantise=BOTH)
    file = save_lora(tmp_path / "style.safetensors", plain.large)
    before = drawn(quantised, "large")
    for pipe in (plain, quantised):
        pipe.load_lora_weights(file, adapter_name="style", scale=0.0)
    with_it, exact = (drawn(pipe, "large", lora={"style": 1}) for pipe in (quantised, plain))
    moved = (exact - drawn(plain, "large")).std()
    assert (with_it - exact).std() < 0.5 * moved
    assert torch.equal(drawn(quantised, "large"), before)


def test_the_third_text_encoder_is_quantised() -> None:
    torch.manual_seed(0)
    config = T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=50, feed_forward_proj="gated-gelu"
    )
    encoder = T5EncoderModel(config).eval()
    words = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        before = encoder(words)[0]
        size = stored_bytes(encoder)
        quantise({"text_encoder_3": encoder}, {"text_encoder_3": "int8"})
        after = encoder(words)[0]
    assert 0 < (after - before).std() < 0.05 * before.std()
    assert stored_bytes(encoder) < 0.5 * size
    assert [problem.field for problem in saving_problems(encoder)] == ["text_encoder_3"]


def test_both_endpoints_take_the_option_and_give_the_same_picture(tiny: Path, tmp_path: Path) -> None:
    config = CONFIG | {"handler": CONFIG["handler"] | {"quantise": BOTH}}
    fields = {"prompt": "a dog", "seed": 1, "num_inference_steps": 3}
    ours = make_handler("hybridstitch_handler", tiny, config)
    plain = make_handler("plain_sd3_handler", tiny, config)
    pictures = [
        np.asarray(Image.open(io.BytesIO(call(handler, [{"body": fields | more}])[0][0])), dtype=np.int16)
        for handler, more in ((ours, {"recipe": "large"}), (plain, {}))
    ]
    assert np.array_equal(*pictures)
    assert all(
        is_quantised(each) for each in plain.service.pipeline.transformer.modules() if isinstance(each, torch.nn.Linear)
    )
    settings = tmp_path / "config.yaml"
    for wanted, words in (
        ("{large: int4}", "handler.quantise.large: expected one of: int8, null"),
        ("{medium: int8}", "handler.quantise.medium: expected one of: large, small, text_encoder_3"),
        ("int8", "handler.quantise: expected a mapping"),
        ("{text_encoder_3: int8}", "handler.quantise.text_encoder_3: expected nothing"),
    ):
        settings.write_text(f"handler: {{quantise: {wanted}}}")
        with pytest.raises(InvalidInput, match=words):
            pack(tiny, out=tmp_path / "out", config=settings)


def test_wrong_parts_and_an_absent_package_are_named(tiny: Path) -> None:
    with pytest.raises(InvalidInput, match=r"quantise\.lage: expected one of: .*did you mean large"):
        load_pipeline(tiny, quantise={"lage": "int8"})
    code = f"""
import sys
sys.modules["torchao"] = None
from hybridstitch import HybridStitchPipeline
HybridStitchPipeline.from_pretrained({str(tiny)!r}, quantise={{"large": "int8"}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra: torchao is not installed: pip install 'hybridstitch[quantise]'" in done.stderr

"""LoRA adapters on a real toy pair: against diffusers' own pipeline, and from one call to the next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from hybridstitch import HybridStitchPipeline, InvalidInput, Recipe
from hybridstitch.explain import explain
from hybridstitch.model.lora_files import Fused, write_fused
from hybridstitch.plans import Staged
from tests.support.adapters import save_lora
from tests.support.tiny import load_pipeline

CALL = {"prompt": "a dog", "num_inference_steps": 4, "guidance_scale": 3.5, "output_type": "latent"}
STITCHED = Recipe(Staged(large=0.4, hybrid=0.4, share=0.3))


@pytest.fixture(scope="module")
def files(tiny_pipe: HybridStitchPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lora")
    return {
        "large": save_lora(folder / "large.safetensors", tiny_pipe.large),
        "other": save_lora(folder / "other.safetensors", tiny_pipe.large, seed=1),
        "small": save_lora(folder / "small.safetensors", tiny_pipe.small, seed=2),
    }


@pytest.fixture
def pipe(tiny: Path) -> HybridStitchPipeline:
    return load_pipeline(tiny)


def drawn(pipe: HybridStitchPipeline, recipe: str | Recipe = STITCHED, **call) -> torch.Tensor:
    return pipe(**CALL, generator=torch.Generator().manual_seed(0), recipe=recipe, **call).images


def of_diffusers(folder: Path, *adapters: tuple[Path, float]) -> torch.Tensor:
    plain = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    plain.set_progress_bar_config(disable=True)
    for number, (path, _) in enumerate(adapters):
        plain.load_lora_weights(path, adapter_name=f"a{number}")
    plain.set_adapters([f"a{number}" for number in range(len(adapters))], [scale for _, scale in adapters])
    call = {**CALL, "generator": torch.Generator().manual_seed(0), "max_sequence_length": 0}
    return plain(**call).images


def test_the_large_model_with_an_adapter_equals_diffusers_pipeline_bit_for_bit(pipe, tiny, files) -> None:
    before = {recipe: drawn(pipe, recipe) for recipe in ("large", "small")}
    assert pipe.load_lora_weights(files["large"], scale=0.7, adapter_name="style") == "style"
    assert torch.equal(drawn(pipe, "large"), of_diffusers(tiny, (files["large"], 0.7)))
    assert not torch.allclose(drawn(pipe, "large"), before["large"], atol=1e-2)
    assert torch.equal(drawn(pipe, "small"), before["small"])
    pipe.load_lora_weights(files["other"], adapter_name="zest", scale=-0.4)
    both = of_diffusers(tiny, (files["large"], 0.7), (files["other"], -0.4))
    assert torch.equal(drawn(pipe, "large"), both)
    assert torch.equal(drawn(pipe, "large", lora={"style": 0.2}), of_diffusers(tiny, (files["large"], 0.2)))
    assert torch.equal(drawn(pipe, "large"), both)
    pipe.unload_lora_weights("zest")
    assert torch.equal(drawn(pipe, "large"), of_diffusers(tiny, (files["large"], 0.7)))
    pipe.unload_lora_weights()
    assert all(torch.equal(drawn(pipe, recipe), picture) for recipe, picture in before.items())
    assert not any("lora" in name or "base_layer" in name for name in pipe.large.state_dict())


def test_the_small_model_with_an_adapter_leaves_the_large_one(pipe, files) -> None:
    before = {recipe: drawn(pipe, recipe) for recipe in ("large", "small")}
    name = pipe.load_lora_weights(files["small"], model="small")
    assert torch.equal(drawn(pipe, "large"), before["large"])
    assert not torch.allclose(drawn(pipe, "small"), before["small"], atol=1e-2)
    assert pipe.adapters.describe() == {name: {"models": ["small"], "scale": 1.0}}


def test_an_adapter_that_a_call_names_does_not_leak_into_the_next_call(pipe, files) -> None:
    before = drawn(pipe)
    pipe.load_lora_weights(files["large"], "large", "style", 0.0)
    pipe.load_lora_weights(files["small"], "small", "style", 0.0)
    assert torch.equal(drawn(pipe), before)
    changed = drawn(pipe, lora={"style": 1.5})
    assert not torch.allclose(changed, before, atol=1e-2)
    assert torch.equal(drawn(pipe), before)
    assert torch.equal(drawn(pipe, lora={"style": 1.5}), changed)

    def fail(*_) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        drawn(pipe, lora={"style": 1.5}, on_step=fail)
    assert torch.equal(drawn(pipe), before)
    # An adapter that acts by default is off in a call that names none.
    pipe.load_lora_weights(files["other"], "large", "usual")
    assert torch.equal(drawn(pipe, lora={}), before)
    assert not torch.allclose(drawn(pipe), before, atol=1e-2)


def test_a_generation_knows_its_adapters_and_shares_no_forward_with_others(pipe, files) -> None:
    pipe.load_lora_weights(files["large"], "large", "style", 0.5)
    pipe.load_lora_weights(files["other"], "large", "zest", 0.0)
    usual, same, other, none = (
        pipe.validate("a dog", generator=torch.Generator(), lora=lora)
        for lora in (None, {"zest": 0, "style": 0.5}, {"style": 0.5, "zest": 1}, {})
    )
    assert usual.lora == {"style": 0.5}
    assert usual.batch_key == same.batch_key
    assert len({usual.batch_key, other.batch_key, none.batch_key}) == 3
    report = pipe.generate(other).report
    assert report.to_dict()["lora"] == {"style": 0.5, "zest": 1.0}


def test_an_explanation_replays_the_steps_with_the_adapters_of_its_picture(pipe, files) -> None:
    asked = {"target": "image", "num_inference_steps": 2, "recipe": "large", "steps_explained": 1}
    before = explain(pipe, "red dog", **asked)
    pipe.load_lora_weights(files["large"], "large", "style", 0.0)
    with_it = explain(pipe, "red dog", lora={"style": 2.0}, **asked)
    assert [word.score for word in with_it.words] != [word.score for word in before.words]
    assert [word.score for word in explain(pipe, "red dog", **asked).words] == [word.score for word in before.words]


def test_adapters_work_in_half_precision_and_through_a_change_of_dtype(pipe, files) -> None:
    pipe.load_lora_weights(files["large"], "large", "style")
    wide = drawn(pipe, "large")
    pipe.to(torch.bfloat16)
    narrow = drawn(pipe, "large")
    assert narrow.dtype == torch.bfloat16
    assert torch.nn.functional.mse_loss(narrow.float(), wide) < 0.02 * wide.var()


def test_what_is_wrong_is_refused_by_name(pipe, files, tmp_path) -> None:
    pipe.load_lora_weights(files["large"], "large", "style", 0.5)
    wrong = [
        ({"model": "medium"}, "model", "one of: large, small"),
        ({"adapter_name": "a.b"}, "adapter_name", "letters, digits"),
        ({"adapter_name": "style"}, "adapter_name", "does not have yet"),
        ({"scale": 11}, "scale", "-10..10"),
        ({"path": files["small"], "model": "small", "adapter_name": "style"}, "scale", "0.5, as for the other model"),
        ({"path": files["small"]}, str(files["small"]), "a LoRA of the large model"),
        ({"path": files["large"], "model": "small"}, str(files["large"]), "small model"),
        ({"path": tmp_path / "none.safetensors"}, str(tmp_path / "none.safetensors"), "an existing file"),
    ]
    for arguments, field, words in wrong:
        with pytest.raises(InvalidInput) as caught:
            pipe.load_lora_weights(**{"path": files["other"], **arguments})
        assert [problem.field for problem in caught.value.problems] == [field]
        assert words in caught.value.problems[0].expected
    for lora, field in (({"stile": 1}, "lora.stile"), ({"style": "1"}, "lora.style"), (["style"], "lora")):
        with pytest.raises(InvalidInput) as caught:
            drawn(pipe, lora=lora)
        assert [problem.field for problem in caught.value.problems] == [field]
    with pytest.raises(InvalidInput, match=r"did you mean style\?"):
        drawn(pipe, lora={"stile": 1})
    with pytest.raises(InvalidInput, match="unload_lora_weights"):
        pipe.save_pretrained(tmp_path / "saved")


def test_a_file_that_is_no_adapter_is_refused_by_name(pipe, files, tmp_path) -> None:
    tensors = load_file(files["large"])
    first = next(iter(tensors))
    encoder = {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 16)}
    contents = {
        "a LoRA, with tensors": {"proj_out.weight": torch.zeros(2, 2)},
        "share the text encoders": tensors | encoder,
        "only tensors lora_A and lora_B": tensors | {first.replace("lora_A.weight", "lora_magnitude"): torch.zeros(2)},
        "layers of the large model": {first.replace("blocks.0", "blocks.99"): tensors[first]},
        "lora_A and lora_B of every layer": {first: tensors[first]},
    }
    for words, content in contents.items():
        save_file(content, tmp_path / "wrong.safetensors")
        with pytest.raises(InvalidInput, match=words):
            pipe.load_lora_weights(tmp_path / "wrong.safetensors")
    torch.save(tensors, tmp_path / "pickle.bin")
    torch.save(tensors, tmp_path / "pickle.safetensors")
    for name, words in (("pickle.bin", "can run code"), ("pickle.safetensors", "complete safetensors")):
        with pytest.raises(InvalidInput, match=words):
            pipe.load_lora_weights(tmp_path / name)
    assert not hasattr(pipe.large, "peft_config")


def test_other_names_of_the_same_tensors_load(pipe, files, tmp_path) -> None:
    tensors = load_file(files["large"])
    pipe.load_lora_weights(files["large"])
    expected = drawn(pipe, "large")
    for old, new in (("transformer.", ""), ("lora_A", "lora.down"), ("lora_B", "lora.up")):
        tensors = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
        save_file(tensors, tmp_path / "renamed.safetensors")
        if old != "lora_A":  # half renamed is no LoRA
            pipe.unload_lora_weights()
            pipe.load_lora_weights(tmp_path / "renamed.safetensors")
            assert torch.equal(drawn(pipe, "large"), expected)


def test_the_adapters_of_a_packed_pair_are_added_to_its_weights(tiny, files, tmp_path) -> None:
    folder = tmp_path / "pair"
    load_pipeline(tiny).save_pretrained(folder)
    write_fused(folder, [Fused("large", str(files["large"]), 0.7), Fused("small", str(files["small"]))])
    fused, loaded = load_pipeline(folder), load_pipeline(tiny)
    loaded.load_lora_weights(files["large"], scale=0.7)
    loaded.load_lora_weights(files["small"], model="small")
    for recipe in ("large", "small", STITCHED):
        torch.testing.assert_close(drawn(fused, recipe), drawn(loaded, recipe), atol=1e-4, rtol=1e-4)
    assert fused.adapters.names == []
    (folder / "lora.json").write_text(json.dumps([{"modle": "large"}]))
    with pytest.raises(InvalidInput, match="a list of adapters"):
        load_pipeline(folder)


def test_without_peft_the_error_names_the_command(tiny, files) -> None:
    code = f"""
import sys
sys.modules["peft"] = None
from hybridstitch import HybridStitchPipeline
pipe = HybridStitchPipeline.from_pretrained({str(tiny)!r})
pipe("a dog", num_inference_steps=1)
pipe.load_lora_weights({str(files["large"])!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra: peft is not installed: pip install 'hybridstitch[lora]'" in done.stderr

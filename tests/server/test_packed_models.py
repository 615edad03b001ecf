"""What `pack` accepts, a worker starts with: every file of a pair is once absent and once cut off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.server.pack import pack
from tests.support.handlers import QUICK, call, make_handler

FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"text_encoder{number}/{file}" for number in ("", "_2") for file in ("config.json", "model.safetensors")),
    *(f"tokenizer{number}/{file}" for number in ("", "_2") for file in ("tokenizer.json", "tokenizer_config.json")),
    *(
        f"{part}/{file}"
        for part in ("transformer", "transformer_small", "vae")
        for file in ("config.json", "diffusion_pytorch_model.safetensors")
    ),
    "recipes.json",
    "pair.json",
]
OPTIONAL = ("recipes.json", "pair.json")
LARGE = "transformer/diffusion_pytorch_model.safetensors"
SMALL = "transformer_small/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def pair(tiny: Path, tmp_path: Path) -> Path:
    """A pair of one's own, to break."""
    pair = tmp_path / "pair"
    shutil.copytree(tiny, pair)
    (pair / "recipes.json").write_text('{"format": 1, "steps": 28, "named": {}, "points": []}')
    (pair / "pair.json").write_text('{"name": "tiny"}')
    return pair


def starts(pair: Path, **arguments: Any) -> Path:
    """The pair folder inside the archive, after the real handler has started with it and drawn a picture."""
    folder = pack(pair, out=pair.parent / "store", archive_format="no-archive", **arguments)
    name = "plain_sd3_handler" if arguments.get("plain") else "hybridstitch_handler"
    answers, _ = call(make_handler(name, folder / "pair"), [{"body": QUICK}])
    assert answers[0].startswith(b"\x89PNG")
    return folder / "pair"


def held(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refusal(pair: Path, **arguments: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        pack(pair, out=pair.parent / "store", archive_format="no-archive", **arguments)
    assert not list((pair.parent / "store").glob("*"))
    return refused.value


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_whole_pair_is_packed_file_by_file(pair: Path) -> None:
    assert held(pair) == sorted(FILES)
    assert held(starts(pair)) == sorted(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_absent_is_named_or_not_needed(pair: Path, file: str) -> None:
    (pair / file).unlink()
    if file in OPTIONAL:
        assert held(starts(pair)) == sorted({*FILES} - {file})
    else:
        (problem,) = refusal(pair).problems
        assert problem.field in (str(pair / file), str((pair / file).parent))


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_off_is_named(pair: Path, file: str) -> None:
    content = (pair / file).read_bytes()
    (pair / file).write_bytes(content[: len(content) // 2])
    (problem,) = refusal(pair).problems
    assert problem.field == str(pair / file)


def without_a_tensor(file: str) -> Callable[[Path], None]:
    def remove(pair: Path) -> None:
        tensors = load_file(pair / file)
        tensors.pop(next(name for name in tensors if name.endswith("bias")))
        save_file(tensors, pair / file)

    return remove


def written(file: str, content: bytes | str) -> Callable[[Path], None]:
    def write(pair: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (pair / file).write_bytes(data)

    return write


def changed(file: str, **values: Any) -> Callable[[Path], None]:
    return lambda pair: change(pair / file, **values)


def renamed(file: str, name: str) -> Callable[[Path], None]:
    return lambda pair: (pair / file).rename((pair / file).with_name(name)) and None


def third_tokenizer(pair: Path) -> None:
    """A third tokenizer without a text encoder."""
    shutil.copytree(pair / "tokenizer", pair / "tokenizer_3")
    change(pair / "model_index.json", tokenizer_3=["transformers", "CLIPTokenizer"])


def pickled(file: str) -> Callable[[Path], None]:
    def write(pair: Path) -> None:
        torch.save({}, (pair / file).with_name("pytorch_model.bin"))
        (pair / file).unlink()

    return write


def sharded(file: str, shards: tuple[str, ...] = ("1", "2"), index: str = ".index.json", **content: Any) -> Any:
    """The weights of a part in two files with an index; `content` replaces what the index holds."""

    def write(pair: Path) -> None:
        path = pair / file
        tensors, stem = load_file(path), path.name.removesuffix(".safetensors")
        names = sorted(tensors)
        halves = {"1": names[::2], "2": names[1::2]}
        places = {name: f"{stem}-{number}.safetensors" for number, half in halves.items() for name in half}
        for number in shards:
            save_file({name: tensors[name] for name in halves[number]}, path.with_name(f"{stem}-{number}.safetensors"))
        if index:
            full = {"metadata": {}, "weight_map": places} | content
            path.with_name(f"{path.name}{index}").write_text(json.dumps(full))
        path.unlink()

    return write


@pytest.mark.parametrize(
    ("breaking", "field", "words"),
    [
        (without_a_tensor(LARGE), "transformer", "are missing"),
        (without_a_tensor(SMALL), "transformer_small", "are missing"),
        (without_a_tensor(TEXT), "text_encoder", "are missing"),
        (without_a_tensor("vae/diffusion_pytorch_model.safetensors"), "vae", "are missing"),
        (changed("transformer_small/config.json", num_layers=3), "transformer_small", "of shape"),
        (changed("transformer/config.json", num_attention_heads=3), "transformer", "of shape"),
        (changed("vae/config.json", block_out_channels=[8, 16]), "vae", "of shape"),
        (changed("text_encoder_2/config.json", hidden_size=32), "text_encoder_2", "of shape"),
        (changed("text_encoder/config.json", vocab_size="many"), "text_encoder", "can load"),
        (changed("transformer/config.json", patch_size="two"), "transformer.patch_size", "as the large"),
        (changed("model_index.json", vae=["diffusers", "AutoencoderTiny"]), "vae", "a AutoencoderKL"),
        (changed("model_index.json", tokenizer=["transformers", "NoTokenizer"]), "tokenizer", "can load"),
        (changed("model_index.json", vae=["my_module", "Vae"]), "model_index.json", "vae of one of: diffusers"),
        (changed("model_index.json", text_encoder=[None, None]), "model_index.json", "with text_encoder"),
        (changed("model_index.json", vae=[["diffusers"], "AutoencoderKL"]), "model_index.json", "vae: a list of"),
        (changed("model_index.json", vae=["diffusers"]), "model_index.json", "vae: a list of"),
        (changed("model_index.json", vae=["diffusers", "A", "B"]), "model_index.json", "vae: a list of"),
        (changed("model_index.json", text_encoder=["transformers", "CLIPTextModel"]), "text_encoder", "WithProjection"),
        (written("model_index.json", "[" * 10**5), "model_index.json", "a JSON file"),
        (written("vae/config.json", '{"a":' * 10**5), "vae/config.json", "a JSON file"),
        (changed("tokenizer/tokenizer_config.json", model_max_length="x"), "tokenizer", "a number as model_max_length"),
        (third_tokenizer, "model_index.json", "text_encoder_3 and tokenizer_3, or neither"),
        (changed("tokenizer/tokenizer_config.json", model_max_length=77), "tokenizer", "at most 16"),
        (changed("recipes.json", points=[{"recipe": {"plan": "nope"}}]), "recipes.json.points.plan.type", "one of"),
        (written("recipes.json", "[]"), "recipes.json", "a JSON object"),
        (written("model_index.json", "[]"), "model_index.json", "a JSON object"),
        (pickled(LARGE), "transformer/pytorch_model.bin", "instead: loading a pickle"),
        (pickled(TEXT), "text_encoder/pytorch_model.bin", "instead: loading a pickle"),
        (renamed(LARGE, "diffusion_pytorch_model.fp16.safetensors"), LARGE, "--variant fp16"),
        (renamed(SMALL, "diffusion_pytorch_model.bf16.safetensors"), SMALL, "--variant bf16"),
        (renamed(TEXT, "model.fp16.safetensors"), TEXT, "--variant fp16"),
        (sharded(LARGE, shards=("1",)), "transformer/diffusion_pytorch_model-2.safetensors", "names it"),
        (sharded(TEXT, shards=("2",)), "text_encoder/model-1.safetensors", "names it"),
        (sharded(LARGE, index=""), f"{LARGE}.index.json", "in several files"),
        (sharded(LARGE, weight_map={}), f"{LARGE}.index.json", "a weight_map"),
        (sharded(LARGE, weight_map=[1]), f"{LARGE}.index.json", "a weight_map"),
        (sharded(LARGE, metadata=None), f"{LARGE}.index.json", "metadata"),
        (sharded(LARGE, weight_map={"a": "../x.safetensors"}), f"{LARGE}.index.json", "the same folder"),
        (
            sharded(LARGE, weight_map={"a": "diffusion_pytorch_model-1.safetensors"}),
            "transformer/diffusion_pytorch_model-1.safetensors",
            "the tensors that",
        ),
    ],
)
def test_what_a_worker_could_not_start_with_is_named(
    pair: Path, breaking: Callable[[Path], None], field: str, words: str
) -> None:
    breaking(pair)
    (problem,) = refusal(pair).problems
    assert problem.field in (str(pair / field), field)
    assert words in problem.expected, str(problem)


def leftovers(pair: Path) -> None:
    """What training and a hub leave in a folder."""
    for name in ("checkpoint-500/optimizer.bin", "transformer/diffusion_pytorch_model.bin", "text_encoder/model.bin"):
        (pair / name).parent.mkdir(exist_ok=True)
        torch.save({}, pair / name)
    for name in ("README.md", "example.png", "vae/.gitattributes", "transformer/LICENSE", "tokenizer/notes.md"):
        (pair / name).write_bytes(b"x")


def with_variants(pair: Path) -> None:
    for file in (LARGE, TEXT):
        half = {name: value.half() for name, value in load_file(pair / file).items()}
        save_file(half, (pair / file).with_name((pair / file).name.replace(".safetensors", ".fp16.safetensors")))


def both_kinds(pair: Path) -> None:
    """Single files beside the shards of the same weights: diffusers reads the shards, transformers the single file."""
    for file in (LARGE, TEXT):
        single = (pair / file).read_bytes()
        sharded(file)(pair)
        (pair / file).write_bytes(single)


LARGE_SHARDS = [f"{LARGE}.index.json", *(f"transformer/diffusion_pytorch_model-{x}.safetensors" for x in (1, 2))]


@pytest.mark.parametrize(
    ("changing", "arguments", "gone", "more"),
    [
        (leftovers, {}, [], []),
        (with_variants, {}, [], []),
        (with_variants, {"variant": "fp16"}, [], []),
        (both_kinds, {}, [LARGE], LARGE_SHARDS),
        (leftovers, {"plain": True}, [file for file in FILES if file.startswith("transformer_small")], []),
    ],
)
def test_only_what_the_loader_reads_is_packed(
    pair: Path, changing: Callable[[Path], None], arguments: dict[str, Any], gone: list[str], more: list[str]
) -> None:
    changing(pair)
    folder = starts(pair, **arguments)
    assert held(folder) == sorted({*FILES, *more} - {*gone})
    if "variant" in arguments:
        assert {value.dtype for value in load_file(folder / LARGE).values()} == {torch.float16}
        assert {value.dtype for value in load_file(folder / SMALL).values()} == {torch.float32}

"""The cache of prompt embeddings: equal bits, all that matters in the key, and a bound in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hybridstitch import HybridStitchPipeline
from hybridstitch.model.prompt_cache import PromptCache
from tests.support.handlers import QUICK, call, make_handler
from tests.support.tiny import load_pipeline


@pytest.fixture
def pipe(tiny: Path) -> HybridStitchPipeline:
    """A toy pair that keeps embeddings."""
    pipe = load_pipeline(tiny)
    pipe.prompts.cache.limit = 2**20
    return pipe


@contextmanager
def counting(pipe: HybridStitchPipeline) -> Iterator[list[int]]:
    """The rows of each forward of the first text encoder."""
    rows: list[int] = []
    hook = pipe.text_encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output[0])))
    try:
        yield rows
    finally:
        hook.remove()


def generate(pipe: HybridStitchPipeline, prompt: str = "a cat", seed: int = 0, **fields: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    arguments = {"num_inference_steps": 2, "output_type": "latent", **fields}
    return pipe(prompt, generator=generator, **arguments).images


def test_the_same_prompt_is_encoded_once_with_equal_bits(pipe: HybridStitchPipeline, tiny: Path) -> None:
    fresh = load_pipeline(tiny)
    with counting(pipe) as rows:
        pictures = [generate(pipe, seed=seed) for seed in (0, 1, 0)]
    assert rows == [1, 1], "cond and uncond of the first call"
    for picture, seed in zip(pictures, (0, 1, 0), strict=True):
        assert torch.equal(picture, generate(fresh, seed=seed))
    with counting(fresh) as rows:
        generate(fresh)
        generate(fresh)
    assert len(rows) == 4, "off by default"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a dog"},
        {"negative_prompt": "a dog"},
        {"prompt_2": "a dog"},
        {"guidance_scale": 1.0},
        {"clip_skip": 1},
        {"num_images_per_prompt": 2},
    ],
)
def test_all_that_matters_is_in_the_key(pipe: HybridStitchPipeline, tiny: Path, fields: dict[str, object]) -> None:
    generate(pipe)
    assert torch.equal(generate(pipe, **fields), generate(load_pipeline(tiny), **fields))


def test_a_change_of_the_text_encoder_is_seen(pipe: HybridStitchPipeline) -> None:
    before = generate(pipe)
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).mul_(2)
    changed = generate(pipe)
    assert not torch.equal(before, changed)
    pipe.prompts.cache.limit = 0
    assert torch.equal(changed, generate(pipe))
    pipe.prompts.cache.limit = 2**20
    assert generate(pipe.to(torch.bfloat16)).dtype == torch.bfloat16


def test_the_bound_in_bytes_drops_what_was_not_used_for_the_longest_time() -> None:
    cache, made = PromptCache(3 * 80), []

    def make(key: str, numbers: int = 10) -> None:
        cache.get(key, lambda: made.append(key) or (torch.zeros(numbers), torch.zeros(numbers)))

    for key in "abcabacd":
        make(key)
    assert made == ["a", "b", "c", "d"]
    assert (len(cache), cache.bytes) == (3, 240)
    make("b")
    assert made[-1] == "b", "d took its place"
    make("large", 1000)
    assert (len(cache), cache.bytes) == (0, 0)
    cache.limit = 0
    make("a")
    assert len(cache) == 0


def test_gradients_are_never_cached(pipe: HybridStitchPipeline) -> None:
    with torch.enable_grad():
        context, _ = pipe.prompts.alone(["a cat"])
    assert context.requires_grad
    assert len(pipe.prompts.cache) == 0


def test_a_worker_keeps_embeddings_by_its_setting(tiny: Path) -> None:
    handler = make_handler("hybridstitch_handler", tiny)
    assert handler.service.pipeline.prompts.cache.limit == 64 * 2**20
    with counting(handler.service.pipeline) as rows:
        for seed in (1, 2):
            call(handler, [{"body": QUICK | {"prompt": "a cat", "seed": seed}}])
    assert len(rows) == 2

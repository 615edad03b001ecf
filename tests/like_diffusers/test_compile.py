"""`pipe.compile()`: equal pictures, hooks that act, and a bounded number of graphs."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from hybridstitch import Recipe, fills
from hybridstitch.model import compile as compiling
from hybridstitch.model.compile import compile_blocks
from hybridstitch.model.mmdit import KVCache, cached_attention, mmdit_forward
from hybridstitch.plans import Staged
from hybridstitch.serving.worker.render import generate_batch
from hybridstitch.serving.worker.warm_up import warm_up, warm_up_graphs
from hybridstitch.testing.toys import tiny_transformer
from tests.support.adapters import save_lora
from tests.support.calls import CALL, MASKED, seeded

BOTH = Recipe(Staged(large=0.4, hybrid=0.6, share=0.5), fill=fills.SmallRest())
RECIPES = ["large", MASKED, "small", BOTH]


class Counted:
    """A backend of `torch.compile` that counts graphs and runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, _inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def picture(pipe, recipe, seed=0, **call):
    return pipe("a dog", generator=seeded(seed), recipe=recipe, **{**CALL, **call}).images


def test_graphs_are_few_and_serve_every_later_request(pipe):
    side = pipe.size_limits.default[0]
    before = {number: picture(pipe, recipe) for number, recipe in enumerate(RECIPES)}
    other = picture(pipe, MASKED, width=side // 2)
    calls: list[int] = []
    pipe.large.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    backend = Counted()
    pipe.compile(backend=backend)
    for number, recipe in enumerate(RECIPES):
        assert torch.equal(picture(pipe, recipe), before[number])
    assert len(calls) == 3 + 3 + 3  # every step of the recipes but `small`
    first = backend.graphs
    # Two kinds of blocks in the large model, three in the small one, each with and without cache, dense and masked.
    assert 0 < first <= 3 * (2 + 3)
    for recipe in RECIPES:
        picture(pipe, recipe, seed=1)
    assert backend.graphs == first
    assert torch.equal(picture(pipe, MASKED, width=side // 2), other)
    picture(pipe, BOTH, height=side // 2)
    picture(pipe, Recipe(Staged(large=0.4, hybrid=0.6, share=0.2)))
    assert backend.graphs == first
    picture(pipe, MASKED, guidance_scale=1.0)  # a batch of one has separate graphs
    assert first < backend.graphs <= 2 * first
    assert torch._dynamo.config.recompile_limit >= compiling.GRAPHS > backend.graphs


def test_compiling_twice_compiles_once(pipe):
    backend = Counted()
    pipe.compile(backend=backend)
    pipe.compile(backend=backend)
    for block in pipe.large.transformer_blocks:
        assert not hasattr(block.forward._torchdynamo_orig_callable, "_torchdynamo_orig_callable")
    assert torch.isfinite(picture(pipe, MASKED)).all()
    assert backend.graphs > 0


def test_a_worker_compiles_what_requests_use_before_it_is_ready(pipe):
    backend = Counted()
    pipe.compile(backend=backend)
    generate = partial(generate_batch, pipe)
    warm_up_graphs(generate, pipe.size_limits, pipe.catalogue, {"guidance_scale": 3.0, "width": None})
    warm_up(generate, pipe.size_limits, pipe.catalogue)  # another size
    ready = backend.graphs
    assert ready > 0
    for recipe in ("large", "small", "hybridstitch"):
        picture(pipe, recipe, num_inference_steps=8)
    assert backend.graphs == ready


def test_adapters_that_requests_may_name_are_compiled_before_it_is_ready(pipe, tmp_path):
    for model in ("large", "small"):
        file = save_lora(tmp_path / f"{model}.safetensors", getattr(pipe, model))
        pipe.load_lora_weights(file, model=model, adapter_name="style", scale=0.0)
    before = picture(pipe, MASKED), picture(pipe, MASKED, lora={"style": 0.5})
    backend = Counted()
    pipe.compile(backend=backend)
    generate = partial(generate_batch, pipe)
    warm_up_graphs(generate, pipe.size_limits, pipe.catalogue, {}, pipe.adapters.names)
    ready = backend.graphs
    assert ready > 0
    assert torch.equal(picture(pipe, MASKED, lora={"style": 0.5}), before[1])
    picture(pipe, "large", lora={"style": -1.3})
    assert torch.equal(picture(pipe, MASKED), before[0])
    assert not torch.equal(*before)
    assert backend.graphs == ready


@pytest.mark.slow
def test_compiled_code_computes_what_the_blocks_do_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(compiling.CACHE, "")
    transformer = tiny_transformer("sd35-medium", layers=1, dual_attention_layers=())
    noise = torch.Generator().manual_seed(0)
    latents, context = torch.randn(2, 4, 16, 16, generator=noise), torch.randn(2, 7, 32, generator=noise)
    given = (latents, torch.full((2,), 500.0), context, torch.ones(2, 32))
    found = []
    with torch.no_grad(), cached_attention(transformer):
        for _ in range(2):
            cache = KVCache()
            dense = mmdit_forward(transformer, *given, kv_cache=cache)
            found.append((dense, mmdit_forward(transformer, *given, torch.arange(9).expand(2, -1), cache)))
            compile_blocks(transformer, tmp_path)
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
    assert any(path.is_file() for path in tmp_path.rglob("*"))

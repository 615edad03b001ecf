"""The token-subset forward against diffusers' own forward, in float32."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.model.flops import forward_flops
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import KVCache, cached_attention, gather_rows, mmdit_forward, unpatchify
from hybridstitch.testing.toys import LAYOUTS, tiny_transformer

SIZES = [(16, 16), (8, 20)]


def inputs(
    transformer: SD3Transformer2DModel, size: tuple[int, int], batch: int = 2, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """Latents, timestep, context, pooled."""
    noise = torch.Generator().manual_seed(seed)
    config = transformer.config
    return (
        torch.randn(batch, config.in_channels, *size, generator=noise),
        torch.full((batch,), 500.0),
        torch.randn(batch, 7, config.joint_attention_dim, generator=noise),
        torch.randn(batch, config.pooled_projection_dim, generator=noise),
    )


def choose(batch: int, n: int, k: int, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=noise)[:k].sort().values for _ in range(batch)])


@pytest.fixture(params=[*LAYOUTS, "emoji"])
def transformer(request: pytest.FixtureRequest) -> SD3Transformer2DModel:
    if request.param == "emoji":
        return SD3Transformer2DModel.from_pretrained(EMBEDDED_PAIR, subfolder="transformer", dtype=torch.float32)
    return tiny_transformer(request.param)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cached", [False, True])
def test_dense_forward_is_diffusers_own_bit_by_bit(transformer, size, cached):
    latents, timestep, context, pooled = inputs(transformer, size)
    expected = transformer(latents, context, pooled, timestep, return_dict=False)[0]
    with cached_attention(transformer):
        rows = mmdit_forward(transformer, latents, timestep, context, pooled, kv_cache=KVCache() if cached else None)
    assert torch.equal(unpatchify(rows, (size[0] // 2, size[1] // 2), 2), expected)


@pytest.mark.parametrize("size", SIZES)
def test_all_tokens_through_the_subset_path_equal_the_dense_path(transformer, size):
    latents, timestep, context, pooled = inputs(transformer, size)
    tokens = torch.arange(size[0] * size[1] // 4).expand(2, -1)
    cache = KVCache()
    with cached_attention(transformer):
        mmdit_forward(transformer, *inputs(transformer, size, seed=1), kv_cache=cache)
        dense = mmdit_forward(transformer, latents, timestep, context, pooled, kv_cache=KVCache())
        subset = mmdit_forward(transformer, latents, timestep, context, pooled, tokens, cache)
    assert torch.equal(subset, dense)


@pytest.mark.parametrize("size", SIZES)
def test_subset_at_the_cached_latents_equals_the_dense_rows(transformer, size):
    """With nothing changed since the dense step, the cached rows are exact, so every subset must be too."""
    latents, timestep, context, pooled = inputs(transformer, size)
    tokens = choose(2, size[0] * size[1] // 4, 7)
    cache = KVCache()
    with cached_attention(transformer):
        dense = mmdit_forward(transformer, latents, timestep, context, pooled, kv_cache=cache)
        subset = mmdit_forward(transformer, latents, timestep, context, pooled, tokens, cache)
    torch.testing.assert_close(subset, gather_rows(dense, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_cached_rows_outside_the_subset_are_old_and_inside_are_fresh(transformer, size):
    image_tokens = size[0] * size[1] // 4
    tokens = choose(2, image_tokens, 9)
    chosen = torch.zeros(2, image_tokens, dtype=torch.bool).scatter_(1, tokens, True)
    cache, reference = KVCache(), KVCache()
    with cached_attention(transformer):
        mmdit_forward(transformer, *inputs(transformer, size), kv_cache=cache)
        layers = range(transformer.config.num_layers)
        kinds = {KVCache.joint: layers, KVCache.image_only: transformer.config.dual_attention_layers}
        before = [(kind, n, [rows.clone() for rows in kind(cache, n)]) for kind in kinds for n in kinds[kind]]
        new = inputs(transformer, size, seed=1)
        mmdit_forward(transformer, *new, tokens=tokens, kv_cache=cache)
        mmdit_forward(transformer, *new, kv_cache=reference)
    for kind, layer, old_rows in before:
        for old, now in zip(old_rows, kind(cache, layer), strict=True):
            same = (old == now).all(dim=-1).all(dim=1)  # (batch, image tokens + text)
            assert same[:, :image_tokens][~chosen].all()
            assert not same[:, :image_tokens][chosen].any()
    # Before any attention a token's row depends on itself alone.
    for fresh, now in zip(reference.joint(0), cache.joint(0), strict=True):
        inside = chosen[:, None, :, None].expand_as(now[:, :, :image_tokens])
        torch.testing.assert_close(now[:, :, :image_tokens][inside], fresh[:, :, :image_tokens][inside])


def test_dual_attention_has_a_cache_of_its_own():
    transformer = tiny_transformer("sd35-medium")
    cache = KVCache()
    with cached_attention(transformer):
        mmdit_forward(transformer, *inputs(transformer, (16, 16)), kv_cache=cache)
    assert cache.joint(0)[0].shape[2] == 64 + 7
    assert cache.image_only(0)[0].shape[2] == 64
    assert cache.image_only(2) is None


def test_subset_without_a_dense_step_is_refused(transformer):
    with cached_attention(transformer), pytest.raises(ValueError, match="K/V cache"):
        mmdit_forward(transformer, *inputs(transformer, (16, 16)), tokens=choose(2, 64, 5), kv_cache=KVCache())


def test_a_cache_that_the_attention_would_ignore_is_refused(transformer):
    with pytest.raises(ValueError, match="cached_attention"):
        mmdit_forward(transformer, *inputs(transformer, (16, 16)), kv_cache=KVCache())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_text_rows_a_block_attends_to_those_of_the_buffer(layout):
    transformer = tiny_transformer(layout)
    noise = torch.Generator().manual_seed(1)
    hidden, text, time = (torch.randn(2, *rows, 16, generator=noise) for rows in ((9,), (7,), ()))
    cache = KVCache()
    with cached_attention(transformer):
        mmdit_forward(transformer, *inputs(transformer, (16, 16)), kv_cache=cache)
        rows = (torch.arange(2)[:, None], choose(2, 64, 9))
        given = {"joint": cache.joint(0), "image_only": cache.image_only(0), "rows": rows}
        block = transformer.transformer_blocks[0]
        _, expected = block(hidden, text, time, given)
        kept = [each[:, :, 64:].clone() for each in cache.joint(0)]
        context, image = block(hidden, text[:, :0], time, given)
    assert context.shape == (2, 0, 16)
    torch.testing.assert_close(image, expected)
    assert all(torch.equal(old, now[:, :, 64:]) for old, now in zip(kept, cache.joint(0), strict=True))


def test_the_index_of_the_rows_is_made_once_a_forward(transformer):
    class Counted(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.made += func is torch.ops.aten.arange.default
            return func(*args, **(kwargs or {}))

    values, cache, counts = inputs(transformer, (16, 16)), KVCache(), []
    with cached_attention(transformer):
        for tokens in (None, choose(2, 64, 9)):
            with Counted() as counted:
                mmdit_forward(transformer, *values, tokens=tokens, kv_cache=cache)
            counts.append(counted.made)
    assert counts[1] == counts[0] + 1


def test_processors_come_back_also_after_an_exception(transformer):
    originals = dict(transformer.attn_processors)
    with cached_attention(transformer):
        assert all(transformer.attn_processors[name] is not originals[name] for name in originals)
    assert all(transformer.attn_processors[name] is originals[name] for name in originals)
    with pytest.raises(RuntimeError, match="shape"), cached_attention(transformer):
        mmdit_forward(transformer, *inputs(transformer, (16, 16))[:3], pooled=torch.zeros(2, 1))
    assert all(transformer.attn_processors[name] is originals[name] for name in originals)


def test_the_text_of_the_last_dense_forward_serves_a_subset(transformer):
    latents, timestep, context, pooled = inputs(transformer, (16, 16))
    tokens = choose(2, 64, 20)
    cache = KVCache()
    with cached_attention(transformer):
        dense = mmdit_forward(transformer, latents, timestep, context, pooled, kv_cache=cache)
        text = [each[:, :, 64:].clone() for each in cache.joint(1)]
        kept = mmdit_forward(transformer, latents, timestep, context, pooled, tokens, cache, text_kept=True)
        torch.testing.assert_close(kept, gather_rows(dense, tokens), rtol=1e-4, atol=1e-4)
        later = (transformer, latents, timestep - 300, context, pooled, tokens, cache)
        kept = mmdit_forward(*later, text_kept=True)
        assert all(torch.equal(each[:, :, 64:], was) for each, was in zip(cache.joint(1), text, strict=True))
        fresh = mmdit_forward(*later)
        assert not any(torch.equal(each[:, :, 64:], was) for each, was in zip(cache.joint(1), text, strict=True))
    assert not torch.allclose(kept, fresh, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("share", "words"), [(1.0, 7), (0.25, 7), (0.25, 0)])
def test_flops_agree_with_torch_counting_them(layout, share, words):
    model = tiny_transformer(layout, layers=4, heads=32, caption_projection_dim=256)
    latents, timestep, context, pooled = inputs(model, (24, 24), batch=1)
    tokens = None if share == 1 else choose(1, 144, 36)
    cache = KVCache()
    with cached_attention(model), sdpa_kernel(SDPBackend.MATH):  # the counter does not see into fused attention
        mmdit_forward(model, latents, timestep, context, pooled, kv_cache=cache)
        with FlopCounterMode(display=False) as counter:
            mmdit_forward(model, latents, timestep, context, pooled, tokens, cache, text_kept=not words)
    estimate = forward_flops(model.config, round(144 * share), 144, 7, text_rendered=words)
    assert estimate == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_the_papers_recipe_saves_what_its_docstring_says():
    """At the shapes of SD3.5-Large and -Medium, 1024 x 1024 pixels, 28 steps: 4 large, 7 hybrid, 17 small."""
    shared = {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
    }
    large = SimpleNamespace(
        num_layers=38, num_attention_heads=38, attention_head_dim=64, dual_attention_layers=(), **shared
    )
    small = SimpleNamespace(
        num_layers=24, num_attention_heads=24, attention_head_dim=64, dual_attention_layers=range(13), **shared
    )
    dense, cheap = (forward_flops(model, 4096, 4096, 333) for model in (large, small))
    subset = forward_flops(large, round(0.3 * 4096), 4096, 333)
    assert cheap / dense == pytest.approx(0.36, abs=0.005)
    assert (subset + cheap) / dense == pytest.approx(0.71, abs=0.01)
    assert 28 * dense / (4 * dense + 7 * (subset + cheap) + 17 * cheap) == pytest.approx(1.85, abs=0.005)


def test_the_prompt_alone_is_the_positive_half_and_half_the_work():
    transformer = tiny_transformer("sd35-medium")
    noise = torch.Generator().manual_seed(3)
    latents, timestep = torch.randn(2, 4, 8, 12, generator=noise), torch.tensor(500.0)
    context, pooled = torch.randn(4, 5, 32, generator=noise), torch.randn(4, 32, generator=noise)
    model = GuidedModel(transformer, context, pooled, 3.0, cached=False)
    with torch.no_grad():
        expected = transformer(latents, context[2:], pooled[2:], timestep.expand(2)).sample
        with cached_attention(transformer):
            guided, work = model(latents, timestep), model.flops
            alone = model.conditional(latents, timestep)
            assert model.flops == 1.5 * work
    torch.testing.assert_close(unpatchify(alone, (4, 6), 2), expected)
    assert not torch.allclose(alone, guided)

"""The small transformer's lesson: it starts as the large one's own blocks, follows it, and can be taken up again."""

from __future__ import annotations

import random
from itertools import count

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel

from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.model.flops import forward_flops
from training import distil, models, stages
from training.distil import BLOCKS, Drawings, Lesson, exported_parts, prune, read_start, velocity
from training.evaluate import open_pair
from training.export import export
from training.latents import Projection
from training.scenes import batches
from training.train import Counters, load_average, run
from training.velocities import velocity_errors
from training.vocabulary import Scene

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts() -> distil.Parts:
    return exported_parts(EMBEDDED_PAIR)


def inputs(pictures: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((pictures, 16, 32, 32), (pictures, 32, 256), (pictures, 256))
    return *(torch.randn(shape, generator=generator) for shape in shapes), torch.full((pictures,), 0.6)


@pytest.mark.parametrize("dual", [(), (0,), (0, 2)])
def test_the_small_model_starts_as_blocks_of_the_large_one(parts, monkeypatch, dual):
    monkeypatch.setitem(models.SHAPES["small"], "dual_attention_layers", dual)
    cut = SD3Transformer2DModel.from_config(parts.large.config)
    cut.load_state_dict(parts.large.state_dict())
    cut.transformer_blocks = torch.nn.ModuleList([cut.transformer_blocks[block] for block in BLOCKS])
    small = prune(parts.large)
    assert tuple(small.config.dual_attention_layers) == dual
    with torch.no_grad():
        assert torch.equal(distil.velocity(small, *inputs()), distil.velocity(cut, *inputs()))


def test_attention_by_plain_products_is_that_of_torch(parts):
    with torch.no_grad():
        states, context, pooled, sigma = inputs()
        own = parts.large(states, context, pooled, 1000 * sigma).sample
        plain = distil.velocity(parts.large, states, context, pooled, sigma)
    assert not torch.equal(own, plain), "torch's own attention ran"
    torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)


def test_a_second_attention_that_starts_at_nothing_learns(parts, monkeypatch):
    monkeypatch.setitem(models.SHAPES["small"], "dual_attention_layers", (0,))
    small = prune(parts.large)
    distil.velocity(small, *inputs(1)).square().mean().backward()
    assert small.transformer_blocks[0].attn2.to_out[0].weight.grad.abs().max() > 0


def test_the_large_model_costs_as_many_times_the_small_one_as_in_sd35():
    large, small = (
        forward_flops(models.build_transformer(size).config, 256, 256, models.CONTEXT_LENGTH) for size in models.SHAPES
    )
    assert 2.6 <= large / small <= 3.0


def test_the_latent_space_is_read_from_the_encoder(parts):
    assert isinstance(parts.space, Projection)
    autoencoder = AutoencoderKL.from_pretrained(EMBEDDED_PAIR / "vae", torch_dtype=torch.float32)
    pixels = 2 * torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        wanted = autoencoder.encode(pixels).latent_dist.mode()
    assert (parts.space.encode(pixels) - wanted).abs().max() < 0.01
    assert (parts.space.decode(wanted) - pixels).square().mean() < pixels.square().mean()


def test_drawings_end_at_the_picture_and_give_way_to_new_ones():
    torch.manual_seed(0)
    random.seed(0)
    clean, noise = torch.randn(1, 16, 32, 32), torch.randn(1, 16, 32, 32)
    drawings = Drawings(3.0)
    drawings.start(noise, torch.ones(1), ["first"])
    levels = []
    for number in count():
        assert number < 2 * distil.STEPS
        taken = drawings.take(1)
        levels.append(drawings.sigma[taken].item())
        last = drawings.states[taken].clone()
        drawings.advance(taken, noise - clean, noise - clean, ["second"])
        if drawings.prompts[0] == "second":
            break
        torch.testing.assert_close(drawings.states, distil.noised(clean, drawings.sigma, noise), rtol=0, atol=1e-5)
    assert levels == sorted(levels, reverse=True)
    assert distil.STEPS <= len(levels) <= distil.STEPS + 1
    assert (last - clean).square().mean() < 0.2
    assert drawings.sigma.item() == 1
    assert not torch.equal(drawings.states, noise)


def test_the_pairs_small_model_is_much_nearer_to_the_large_one_than_its_start(parts):
    context, pooled = parts.encode(["red apple on blue", "rocket on black", "fox on pink", "house on grey"])
    noise, sigma = torch.randn(4, 16, 32, 32, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.98)

    @torch.no_grad()
    def answer(transformer):
        return velocity(transformer, noise, context, pooled, sigma)

    wanted = answer(parts.large)
    start, small = prune(parts.large), read_start(EMBEDDED_PAIR / "transformer_small")
    assert (answer(small) - wanted).square().mean() < 0.05 * (answer(start) - wanted).square().mean()


@pytest.fixture
def quick(monkeypatch):
    """Batches and checks of a few scenes."""
    monkeypatch.setitem(stages.BATCHES, "distil", 4)
    monkeypatch.setitem(stages.BATCHES, "guided", 4)
    kept_back = [Scene(("disc",), "flat", ("blue", "blue")), Scene(("disc", "wedge"), "3d", ("red", "red"))]
    monkeypatch.setattr("training.distil.held_out", lambda: kept_back)


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_a_lesson_brings_the_small_model_nearer(parts, library, quick, guided):
    torch.manual_seed(0)
    random.seed(0)
    small = prune(parts.large)
    lesson = Lesson(parts, 3.0, 0.1, guided)
    optimizer = torch.optim.AdamW(small.parameters(), 1e-3)
    batch = next(batches(library, 128, 4, seed=0))
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        random.seed(0)
        loss = lesson(small, batch, 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in parts.large.parameters())
    assert bool(lesson.drawings.prompts) == guided

    known = lesson.memory[-1]
    lesson.memory.clear()
    lesson.memory.append(known)
    with torch.no_grad():
        found = velocity(parts.large, *known.inputs)
    torch.testing.assert_close(found, known.wanted)  # the answers of before, without asking the large model again
    assert lesson.again(small).item() == pytest.approx(known.loss(velocity(small, *known.inputs)).item())
    assert lesson.again(small).item() < losses[-1]


@pytest.mark.slow
def test_the_stage_goes_on_where_it_stopped_and_is_exported_alone(library, quick, tmp_path):
    def trained(minutes: float) -> Counters:
        run(
            stages.make("small-distil", minutes, library, tmp_path / "runs", CPU, EMBEDDED_PAIR), tmp_path / "runs", CPU
        )
        return load_average(tmp_path / "runs", "small-distil", models.build_transformer("small"))

    first = trained(0.001)
    assert trained(0.001).step == first.step > 0
    assert trained(first.seconds / 60 + 0.001).step == first.step + 1
    output = tmp_path / "pair"
    (output / "transformer").mkdir(parents=True)
    (output / "transformer" / "config.json").write_text("{}")
    export(tmp_path / "runs", library, output)
    written = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert written == [
        "transformer/config.json",
        "transformer_small/config.json",
        "transformer_small/diffusion_pytorch_model.safetensors",
    ]
    assert (output / "transformer" / "config.json").read_text() == "{}"
    assert (output / written[-1]).stat().st_mode & 0o777 == 0o644

    average, _ = stages.newest_transformer("small", tmp_path / "runs")
    guided = stages.make("small-guided", 0.001, library, tmp_path / "runs", CPU, EMBEDDED_PAIR)
    again = stages.make(
        "small-distil", 1, library, tmp_path / "again", CPU, EMBEDDED_PAIR, output / "transformer_small"
    )
    with torch.no_grad():
        from_folder, exported, wanted = (
            distil.velocity(each, *inputs()) for each in (guided.model, again.model, average)
        )
    assert torch.equal(from_folder, wanted)
    assert (exported - wanted).abs().max() < 0.05  # half precision
    run(guided, tmp_path / "runs", CPU)
    assert stages.newest_transformer("small", tmp_path / "runs")[1] == "small-guided"


def test_a_second_attention_may_come_later(parts, monkeypatch, tmp_path):
    small = prune(parts.large)
    small.save_pretrained(tmp_path)
    monkeypatch.setitem(models.SHAPES["small"], "dual_attention_layers", (0,))
    longer = read_start(tmp_path)
    assert longer.transformer_blocks[0].attn2 is not None
    with torch.no_grad():
        assert torch.equal(distil.velocity(longer, *inputs()), distil.velocity(small, *inputs()))
    longer.save_pretrained(tmp_path)
    again = read_start(tmp_path).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in longer.state_dict().items())


def test_only_a_small_model_of_the_same_shape_is_gone_on_from():
    with pytest.raises(ValueError, match=r"--start .*transformer: expected .*'num_layers': 3.* got .*'num_layers': 8"):
        read_start(EMBEDDED_PAIR / "transformer")


def test_velocity_errors_tell_the_models_apart_at_the_same_noise(library, monkeypatch):
    monkeypatch.setattr("training.velocities.LEVELS", (0.5,))
    pair = open_pair(EMBEDDED_PAIR)
    pixels, captions = next(batches(library, 128, 2, seed=0))
    found = velocity_errors(pair, pixels, captions)
    assert found.keys() == {"large", "small", "apart"}
    assert found["large"].keys() == {"0.5", "training"}
    assert found["apart"]["0.5"] > 0.001
    equal = velocity_errors({"large": pair["large"], "small": pair["large"]}, pixels, captions)
    assert equal["apart"] == {"0.5": 0.0, "training": 0.0}
    assert equal["small"] == found["large"]

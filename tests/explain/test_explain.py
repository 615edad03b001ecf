"""Explanations on a tiny real pair: the arithmetic, the replay, what is refused, and what is left behind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.words import without, words_of
from hybridstitch.errors import InvalidInput
from hybridstitch.explain import Explanation, explain
from hybridstitch.explain.forward_counter import ForwardCounter
from hybridstitch.explain.recording import record
from hybridstitch.explain.targets import Choice, Texts
from hybridstitch.model.mmdit import cached_attention, mmdit_forward
from tests.support.adapters import save_lora
from tests.support.tiny import load_pipeline

HYBRID = {"plan": {"type": "staged"}, "mask": {"type": "velocity-change"}, "fill": {"type": "small"}}
SETTINGS: dict[str, Any] = {"num_inference_steps": 8, "seed": 5, "width": 32, "height": 32}


def ask(pipe: HybridStitchPipeline, prompt: str = "red cat", **settings: Any) -> Explanation:
    return explain(pipe, prompt, **{**SETTINGS, **settings})


def test_words_and_prompts_without_them():
    prompt = "A well-known  fox's den, on\nblue!"
    words = words_of(prompt)
    assert [word.text for word in words] == ["A", "well-known", "fox's", "den", "on", "blue"]
    assert all(prompt[word.start : word.end] == word.text for word in words)
    assert without(prompt, words, [1, 5]) == "A fox's den, on !"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("(red:1.3) cat, [blue:0.5]", ["red", "cat", "blue", "0.5"]),
        ("at 10:30, v1.5 or 1,000", ["at", "10", "30", "v1.5", "or", "1,000"]),
        ("一只红苹果 on blue", ["一", "只", "红", "苹", "果", "on", "blue"]),
        ("りんごと犬", ["りんごと", "犬"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("a \U0001f44d\U0001f3fd❤\ufe0f!", ["a", "\U0001f44d\U0001f3fd", "❤\ufe0f"]),
        ("\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", [
            "\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"]),
        ("café cafe\u0301", ["café", "cafe\u0301"]),
    ],
)  # fmt: skip
def test_words_are_what_a_reader_would_call_one(prompt, expected):
    assert [word.text for word in words_of(prompt)] == expected


@pytest.mark.parametrize("method", ["ablation", "integrated_gradients"])
def test_words_beyond_the_text_encoders_are_marked_and_have_no_part(tiny_pipe, method):
    settings = {"target": "image", "recipe": "large", "steps_explained": 1, "method": method}
    whole = "dog on red"  # the tokenizer of this pair has a token a letter, and a window of 16
    full, longer = (ask(tiny_pipe, prompt, **settings) for prompt in (f"{whole} owl", f"{whole} owl pizza zebra"))
    assert [word.read for word in longer.words] == [True] * 4 + [False] * 2
    assert all(word.read for word in full.words)
    assert [str(word.score) for word in longer.words[4:]] == ["0.0", "0.0"]
    assert not longer.heatmaps[4:].any()
    assert longer.heatmaps.shape[0] == 6
    # No other word moves to the place of one that is deleted: the rest of the prompt changes nothing.
    assert [word.score for word in longer.words[:4]] == pytest.approx([word.score for word in full.words], abs=1e-3)
    assert longer.forwards == full.forwards


def test_a_word_longer_than_the_window_is_read_as_far_as_it_goes(tiny_pipe):
    found = ask(tiny_pipe, "a" * 40 + " dog", target="image", recipe="large", steps_explained=1)
    assert [word.read for word in found.words] == [True, False]


def test_tokens_of_a_region_are_no_choice_of_the_mask(tiny_pipe):
    region, cell = (0, 0, 16, 16), tiny_pipe.size_limits.multiple_of
    found = ask(tiny_pipe, "red cat", recipe=HYBRID, region=region)
    assert found.mask is not None
    assert not found.mask[: 16 // cell, : 16 // cell].any()
    assert found.mask.any()
    assert all(abs(word.score) < 100 for word in found.words)


def test_the_picture_is_the_one_that_a_prediction_gives(tiny_pipe):
    found = ask(tiny_pipe, recipe="hybridstitch")
    drawn = tiny_pipe(
        "red cat",
        recipe="hybridstitch",
        num_inference_steps=8,
        guidance_scale=4.5,
        width=32,
        height=32,
        generator=torch.Generator().manual_seed(5),
    )
    assert found.image.tobytes() == drawn.images[0].tobytes()
    assert found.report["seed"] == 5


@pytest.mark.parametrize("region", [None, (0, 0, 16, 8)])
def test_scores_of_three_words_are_the_differences_worked_out_by_hand(tiny_pipe, region):
    target = "image" if region is None else "region"
    found = ask(tiny_pipe, "red cat sits", target=target, region=region, recipe="large", steps_explained=2)
    starts = []

    def keep(_: Any, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        starts.append((timestep, tensors["latents"]))
        return tensors

    generator = torch.Generator().manual_seed(5)
    side = 32 // tiny_pipe.vae_scale_factor
    shape = (1, tiny_pipe.large.config.in_channels, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    tiny_pipe(
        "red cat sits",
        recipe="large",
        num_inference_steps=8,
        guidance_scale=4.5,
        width=32,
        height=32,
        generator=generator,
        callback_on_step_end=keep,
    )
    assert found.steps_explained == (0, 7)
    points = [(starts[0][0], noise), (starts[7][0], starts[6][1])]

    def velocity(prompt: str, point: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        context, pooled = tiny_pipe.prompts.alone([prompt])
        with torch.no_grad(), cached_attention(tiny_pipe.large):
            every = mmdit_forward(tiny_pipe.large, point[1], point[0].expand(1), context, pooled)[0]
        if region is None:
            return every
        rows, columns = found.heatmaps.shape[1:]
        cell = tiny_pipe.size_limits.multiple_of
        return every.unflatten(0, (rows, columns))[: 8 // cell, : 16 // cell].flatten(0, 1)

    for word, gone in zip(found.words, ("cat sits", "red sits", "red cat"), strict=True):
        expected = 0.0
        for point in points:
            way = velocity("red cat sits", point) - velocity("", point)
            lost = velocity("red cat sits", point) - velocity(gone, point)
            expected += float((lost * way).sum() / (way * way).sum()) / 2
        assert word.score == pytest.approx(expected, abs=1e-4)
    if region is None:
        moved = sum((velocity("red cat sits", point) - velocity("cat sits", point)).norm(dim=1) / 2 for point in points)
        assert torch.allclose(found.heatmaps[0].flatten(), moved, atol=1e-5)


@pytest.mark.parametrize("target", ["image", "mask"])
def test_the_weight_of_adapters_and_the_reading_of_prompts_are_those_of_the_picture(tiny, tmp_path, target):
    pipe = load_pipeline(tiny)
    recipe = HYBRID if target == "mask" else "large"
    asked = {"target": target, "recipe": recipe, "steps_explained": 2}
    before = ask(pipe, "red cat sits", **asked)
    pipe.load_lora_weights(save_lora(tmp_path / "style.safetensors", pipe.large), scale=4.0)
    without = ask(pipe, "red cat sits", joint_attention_kwargs={"scale": 0.0}, **asked)
    half = ask(pipe, "red cat sits", joint_attention_kwargs={"scale": 0.5}, **asked)
    whole = ask(pipe, "red cat sits", **asked)
    scores = [[word.score for word in each.words] for each in (before, without, half, whole)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    assert scores[2] != pytest.approx(scores[3], abs=1e-3)
    assert [word.score for word in ask(pipe, "red cat sits", clip_skip=1, **asked).words] != scores[3]


@pytest.mark.parametrize(
    ("recipe", "masked"),
    [
        (HYBRID, [2]),
        ({"plan": {"type": "listed", "shares": [1, 1, 0, 0.3, 1, 1, 0, 0.3]}, "mask": "drift", "fill": "last"}, [3, 7]),
    ],
)  # fmt: skip
def test_a_replay_with_the_same_prompt_makes_the_same_mask(tiny_pipe, recipe, masked):
    generation = tiny_pipe.validate(
        "red cat", negative_prompt="dog", num_inference_steps=8, guidance_scale=3.0, width=32, height=32,
        recipe=recipe, generator=[torch.Generator().manual_seed(5)],
    )  # fmt: skip
    recording = record(tiny_pipe, generation, lambda: None)
    assert recording.masked == masked
    with torch.no_grad(), cached_attention(tiny_pipe.large), cached_attention(tiny_pipe.small):
        negative = Texts(*tiny_pipe.prompts.alone(["dog"]))
        choice = Choice(tiny_pipe, recording, ForwardCounter(None), recording.masked, negative)
        for step in recording.masked:
            scores = choice.respond(step, Texts(*tiny_pipe.prompts.alone(["red cat", "blue dog"])))[..., 0]
            tokens = recording.steps[step].tokens
            assert tokens is not None
            again = scores[0].argsort(descending=True, stable=True)[: tokens.shape[1]]
            assert set(again.tolist()) == set(tokens[0].tolist())
            assert not torch.equal(scores[0], scores[1])


def test_prompts_may_share_a_forward(tiny_pipe):
    alone, together = (
        ask(tiny_pipe, "a red cat on blue", target="mask", recipe=HYBRID, perturbations_per_eval=rows)
        for rows in (1, 4)
    )
    assert [word.score for word in alone.words] == pytest.approx([word.score for word in together.words], abs=1e-3)
    assert torch.allclose(alone.heatmaps, together.heatmaps, atol=1e-4)
    assert alone.forwards == together.forwards


@pytest.mark.parametrize("target", ["mask", "region", "image"])
def test_integrated_gradients_divide_the_whole_effect(tiny_pipe, target):
    found = ask(tiny_pipe, "red cat", target=target, region=(0, 0, 16, 16) if target == "region" else None,
                recipe=HYBRID, method="integrated_gradients", steps_explained=1)  # fmt: skip
    assert found.convergence_delta is not None
    assert found.convergence_delta < 0.05
    assert found.forwards > 64
    if target != "mask":
        assert sum(word.score for word in found.words) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("method", ["ablation", "integrated_gradients"])
def test_forwards_are_counted_and_bounded(tiny_pipe, method):
    few, many = (ask(tiny_pipe, target="image", method=method, recipe="large", steps_explained=n) for n in (1, 3))
    assert many.forwards == 3 * few.forwards
    if method == "ablation":
        assert few.forwards == 2 + 2  # the prompt, the empty one, and one without each word


def traces(pipe: HybridStitchPipeline) -> list[Any]:
    """What an explanation could leave behind."""
    parts = [pipe.large, pipe.small, pipe.components["text_encoder"], pipe.components["text_encoder_2"]]
    hooks = [len(module._forward_hooks) for part in parts for module in part.modules()]
    grads = [weight.grad is None for part in parts for weight in part.parameters()]
    return [hooks, grads, [type(each) for each in pipe.large.attn_processors.values()], torch.is_grad_enabled()]


class Patience:
    """Raises at one of its calls."""

    def __init__(self, limit: int):
        self.limit = limit
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.limit:
            raise TimeoutError("too late")


def test_nothing_is_left_behind_also_after_an_error(tiny_pipe):
    settings = {"target": "image", "method": "integrated_gradients", "steps_explained": 1}
    before, endless = traces(tiny_pipe), Patience(0)
    ask(tiny_pipe, check=endless, **settings)
    assert traces(tiny_pipe) == before
    for limit in (3, 12, endless.calls - 2):
        with pytest.raises(TimeoutError, match="too late"):
            ask(tiny_pipe, check=Patience(limit), **settings)
        assert traces(tiny_pipe) == before


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"target": "why", "method": "guess", "steps_explained": 0}, {"target", "method", "steps_explained"}),
        ({"target": "region"}, {"region"}),
        ({"target": "region", "region": (0, 0, 99, 8), "width": 33}, {"region", "width"}),
        ({"steps_explained": 9}, {"steps_explained"}),
        ({"prompt": " ,;! ", "num_inference_steps": 0}, {"prompt", "num_inference_steps"}),
        ({"prompt": "word " * 65}, {"prompt"}),
        ({"target": "mask", "recipe": "large"}, {"target"}),
        ({"target": "image", "recipe": "small"}, {"recipe"}),
        ({"target": "mask", "recipe": {**HYBRID, "mask": {"type": "random"}}}, {"target"}),
        ({"recipe": {**HYBRID, "mask": {"type": "blend"}}, "method": "integrated_gradients"}, {"method"}),
        ({"recipe": "none such"}, {"recipe"}),
        ({"target": "mask", "recipe": "two-stage", "region": (0, 0, 16, 16)}, {"target"}),
        ({"target": "mask", "recipe": HYBRID, "region": (0, 0, 32, 32)}, {"target"}),
        ({"target": "mask", "recipe": {**HYBRID, "mask": {"type": "box"}}}, {"target"}),
    ],
)
def test_every_wrong_argument_is_named(tiny_pipe, settings, fields):
    with pytest.raises(InvalidInput) as refused:
        ask(tiny_pipe, **settings)
    assert {problem.field for problem in refused.value.problems} == fields


def test_the_attribution_mask_is_where_the_prompt_moves_the_small_model(tiny_pipe):
    recipe = {**HYBRID, "mask": {"type": "attribution"}}
    found = ask(tiny_pipe, target="mask", recipe=recipe)
    assert found.mask is not None
    assert 0 < found.mask.sum() < found.mask.numel()
    assert found.report["recipe"]["mask"] == {"type": "attribution"}


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it():
    code = (
        "import sys; sys.modules['captum'] = sys.modules['captum.attr'] = None; "
        "from hybridstitch.cli.main import main; code = main(['explain', 'a dog', '--out', 'x.html']); "
        "assert 'torch' not in sys.modules, 'known before anything is loaded'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: captum is not installed: pip install 'hybridstitch[serve]'"
    assert "Traceback" not in done.stderr

"""Recipes by name and by description, and the errors for what is neither."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridstitch import Catalogue, HybridStitchPipeline, InvalidInput, Recipe, recipes
from hybridstitch.cli.options import defined
from hybridstitch.cli.report_lines import report_lines
from hybridstitch.explain import explain
from hybridstitch.fills import Last
from hybridstitch.masks import Disagreement, Random, Refresh
from hybridstitch.plans import ExplicitShares, Staged
from hybridstitch.recipe.catalogue import TunedRecipe
from hybridstitch.wire.question import parse_explanation


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load()


@pytest.mark.parametrize("name", recipes())
def test_named_recipes_come_back_from_their_description(catalogue, name):
    recipe = recipes()[name]
    assert catalogue.resolve(name) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_names_that_users_rely_on():
    assert {"large", "small", "t-stitch", "srdiffusion", "hybridstitch"} <= set(recipes())


def test_an_object_replaces_whole_axes_or_single_parameters(catalogue):
    recipe = catalogue.resolve({"name": "hybridstitch", "plan": {"share": 0.5}, "mask": {"type": "random", "seed": 3}})
    assert recipe.plan == Staged(share=0.5)
    assert recipe.mask == Random(3)
    assert recipe.name == "custom"
    assert catalogue.resolve({"plan": {"type": "staged"}, "mask": "disagreement"}).mask == Disagreement()


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ("no-such", ["recipe"]),
        (7, ["recipe"]),
        ([], ["recipe"]),
        ({}, ["recipe.plan"]),
        ({"name": "no-such", "plan": {"type": "all"}}, ["recipe.name"]),
        ({"plan": "no-such"}, ["recipe.plan.type"]),
        ({"plan": {"large": 0.1}}, ["recipe.plan.type"]),
        ({"plan": {"type": "staged", "large": 2, "share": "half"}}, ["recipe.plan.large", "recipe.plan.share"]),
        ({"plan": {"type": "staged", "large": 0.7, "hybrid": 0.7}}, ["recipe.plan.hybrid"]),
        ({"plan": {"type": "staged", "large": True}}, ["recipe.plan.large"]),
        ({"plan": {"type": "staged", "share": float("nan")}}, ["recipe.plan.share"]),
        ({"plan": {"type": "front"}, "fill": {"type": "fitted", "weights": [10**400, 1, 0]}}, ["recipe.fill.weights"]),
        ({"name": "hybridstitch", "mask": {"type": "box", "left": 0.9}}, ["recipe.mask.right"]),
        ({"name": "hybridstitch", "mask": {"type": "random", "seed": 1.5}}, ["recipe.mask.seed"]),
        ({"name": "hybridstitch", "fill": 3, "mask": None}, ["recipe.mask", "recipe.fill"]),
        (
            {"name": "hybridstitch", "paint": 1, "mask": {"type": "box", "size": 1}},
            ["recipe.paint", "recipe.mask.size"],
        ),
        ({"name": "small", "mask": {"type": "os:system"}}, ["recipe.mask.type"]),
    ],
)
def test_every_wrong_field_is_named(catalogue, value, fields):
    with pytest.raises(InvalidInput) as caught:
        catalogue.resolve(value)
    assert [problem.field for problem in caught.value.problems] == fields


def test_python_recipes_are_checked_too():
    with pytest.raises(InvalidInput, match=r"recipe.plan.share: expected a number within 0..1, got 3"):
        Recipe(Staged(share=3))


OWN_MASK = '''
from dataclasses import dataclass
from hybridstitch.masks import MaskStrategy

@dataclass(frozen=True)
class Loud(MaskStrategy):
    """Loud tokens."""
    type = "loud"

    def scores(self, trajectory):
        return trajectory.dense[-1][1].norm(dim=-1)

class Nameless(MaskStrategy):
    def scores(self, trajectory): ...
'''


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_masks.py").write_text(OWN_MASK)
    (tmp_path / "broken_masks.py").write_text("class X(:")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_masks", None)


def test_a_dotted_path_that_the_operator_names(own_module):
    catalogue = Catalogue.load({"masks": {"loud": "own_masks:Loud"}})
    recipe = catalogue.resolve({"name": "hybridstitch", "mask": "loud"})
    assert recipe.mask.to_dict() == {"type": "loud"}
    assert "loud" in catalogue.describe()["masks"]


def test_an_installed_package_offers_its_own(own_module):
    info = own_module / "own_masks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-masks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hybridstitch.masks]\nloud = own_masks:Loud\n")
    assert Catalogue.load().resolve({"name": "hybridstitch", "mask": "loud"}).mask.type == "loud"


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"masks": {"x": "no_such_module:X"}}, "strategies.masks.x"),
        ({"masks": {"x": "own_masks:NoSuch"}}, "strategies.masks.x"),
        ({"masks": {"x": "own_masks"}}, "strategies.masks.x"),
        ({"masks": {"x": "json:JSONDecoder"}}, "strategies.masks.x"),
        ({"plans": {"loud": "own_masks:Loud"}}, "strategies.plans.loud"),
        ({"masks": {"quiet": "own_masks:Loud"}}, "strategies.masks.quiet"),
        ({"masks": {"x": "own_masks:Nameless"}}, "strategies.masks.x"),
        ({"masks": {"x": "broken_masks:X"}}, "strategies.masks.x"),
        ({"colours": {}}, "strategies.colours"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(own_module, named, field):
    with pytest.raises(InvalidInput) as caught:
        Catalogue.load(named)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_what_a_pair_was_tuned_to_is_its_default(tiny_pipe):
    plain = Catalogue.load()
    report = tiny_pipe("one", num_inference_steps=8, output_type="latent").report
    assert (report.recipe.name, report.share_by_step) == ("front", [1, 1, 0, 1, 0, 1, 0, 0])
    costs = ("large", 1.0, 50.0), ("reuse", 0.5, 40.0), ("small", 0.4, 30.0), ("hybridstitch", 0.5, 39.0)
    points = [TunedRecipe(recipes()[name], {4.5: cost, 7.0: 0.4}, {4.5: db, 7.0: db}, name) for name, cost, db in costs]
    tuned = HybridStitchPipeline(tiny_pipe._pipeline, tiny_pipe.small, replace(plain, tuned=tuple(points)))
    report = tuned("one", num_inference_steps=2, output_type="latent").report
    assert (report.recipe.name, report.warnings) == ("reuse", [])
    # At another scale another recipe is the most faithful one that is fast enough.
    assert tuned.catalogue.default(7.0).name == "large"
    slow = replace(plain, tuned=tuple(points[:1]))
    assert (slow.fastest, slow.default(4.5).name) == (1.0, "large")


def test_an_explanation_of_a_mask_has_a_mask_by_default(catalogue, emoji_pipe):
    def recipe_of(found, **asked):
        return parse_explanation({"prompt": "a", **asked}, {}, emoji_pipe.size_limits, found)[0].generation.recipe.name

    tuned = emoji_pipe.catalogue
    assert (recipe_of(catalogue), recipe_of(tuned)) == ("hybridstitch", "hybridstitch-plus")
    assert (recipe_of(catalogue, target="image"), recipe_of(tuned, target="image")) == ("front", "tuned")
    assert recipe_of(catalogue, recipe="large") == "large"
    assert recipe_of(tuned, speed=1.83, recipe=None) == tuned.at_speed(1.83, 4.5).recipe.name
    assert explain(emoji_pipe, "a b", steps_explained=1).report["recipe"]["name"] == "hybridstitch-plus"


def test_a_share_of_the_steps_is_spaced_evenly_and_costs_so_much(tiny_pipe):
    half = replace(recipes()["large"], step_share=0.5)
    assert half.schedule(8) == [1, 0.75, 0.5, 0.25]
    report = tiny_pipe("one", recipe=half, num_inference_steps=8, output_type="latent").report.to_dict()
    assert (report["num_inference_steps"], report["steps_taken"]) == (8, 4)
    assert (report["large_token_share"], report["flops_share"]) == (1, 0.5)
    assert "4 of the 8 requested steps" in report_lines(report)[-2]


@pytest.mark.parametrize("asked", [1, 2, 4, 5, 28])
@pytest.mark.parametrize("step_share", [0.01, 0.3, 0.99, 1.0])
def test_a_share_of_the_steps_leaves_as_many_as_are_useful(asked, step_share):
    schedule = replace(recipes()["large"], step_share=step_share).schedule(asked)
    taken = schedule if isinstance(schedule, int) else len(schedule)
    assert min(asked, 4) <= taken <= asked


def test_a_recipe_may_keep_the_text_in_steps_with_a_mask(tiny_pipe, catalogue):
    with pytest.raises(InvalidInput, match=r"recipe\.text: expected one of: fresh, kept, got 'old'"):
        catalogue.resolve({"name": "hybridstitch", "text": "old"})
    call = {"num_inference_steps": 8, "output_type": "latent"}

    def run(name: str, text: str) -> tuple[float, torch.Tensor]:
        out = tiny_pipe("one", recipe={"name": name, "text": text}, generator=torch.Generator().manual_seed(0), **call)
        assert out.report.to_dict()["recipe"]["text"] == text
        return out.report.flops_share, out.images

    fresh, kept = run("hybridstitch", "fresh"), run("hybridstitch", "kept")
    assert kept[0] < fresh[0]
    assert not torch.equal(fresh[1], kept[1])
    fresh, kept = run("reuse", "fresh"), run("reuse", "kept")  # no step with a mask
    assert kept[0] == fresh[0]
    assert torch.equal(fresh[1], kept[1])


def test_a_tuned_recipe_comes_back_from_its_description(catalogue):
    tuned = replace(recipes()["reuse"], name="tuned", step_share=0.5)
    assert catalogue.resolve(tuned.to_dict()) == tuned


def test_sigmas_of_ones_own_run_the_recipe_of_pairs_that_were_not_tuned(emoji_pipe):
    assert emoji_pipe("a dog", num_inference_steps=4, output_type="latent").report.recipe.name == "tuned"
    report = emoji_pipe("a dog", sigmas=[1.0, 0.7, 0.4], output_type="latent").report
    assert report.recipe.name == "front"
    assert len(report.share_by_step) == 3
    with pytest.raises(InvalidInput, match="sigmas: expected nothing beside a recipe that takes fewer steps"):
        emoji_pipe("a dog", sigmas=[1.0, 0.5], recipe={"name": "large", "step_share": 0.5})


def test_a_speed_is_looked_up_at_the_nearest_guidance_scale():
    calm = TunedRecipe(recipes()["reuse"], {3.5: 0.5, 7.0: 0.5}, {3.5: 40.0, 7.0: 20.0}, "reuse")
    stiff = TunedRecipe(recipes()["small"], {3.5: 0.4, 7.0: 0.6}, {3.5: 30.0, 7.0: 30.0}, "small")
    catalogue = replace(Catalogue.load(), tuned=(calm, stiff))
    assert catalogue.at_speed(1.5, 4.0) == calm
    assert catalogue.at_speed(1.5, 9.0) == stiff
    assert catalogue.at_speed(1.8, 9.0) == calm


def test_the_recipes_of_the_benchmarks_fit_the_tuned_pair(emoji):
    catalogue = Catalogue.load().of_pair(emoji)
    more = defined(catalogue, emoji.parents[1] / "docs" / "more-recipes.json")
    plus, alone = catalogue.recipes["hybridstitch-plus"], more["plus-fill-alone"]
    assert isinstance(plus.plan, ExplicitShares)
    assert alone == replace(
        plus, plan=ExplicitShares(tuple(float(share == 1) for share in plus.plan.shares)), name=alone.name
    )
    assert more["plus-random"] == replace(plus, mask=Refresh(Random(), 1), name="plus-random")
    assert more["plus-last"] == replace(plus, fill=Last(), name="plus-last")
    regions = defined(catalogue, emoji.parents[1] / "docs" / "region-recipes.json")
    assert regions["regions-4"] == replace(plus, name="regions-4")
    assert all(each.plan.masked for each in regions.values())


@pytest.mark.parametrize("fill", Catalogue.load().strategies["fill"])
def test_the_shares_of_a_report_are_as_large_as_it_says(tiny_pipe, catalogue, fill):
    for plan in catalogue.strategies["plan"]:
        limit = (
            {"limit": 1.0} if plan == "error-counter" else {}
        )  # asks the small model, as the fill may, at every step
        recipe = {"plan": {"type": plan, **limit}, "fill": {"type": fill}}
        report = tiny_pipe("a", num_inference_steps=4, recipe=recipe).report
        assert 0 <= report.large_token_share <= 1, plan
        assert 0 <= report.small_token_share <= 1, plan


@pytest.mark.parametrize("strategy", [each for axis in Catalogue.load().strategies.values() for each in axis.values()])
def test_numbers_of_numpy_are_numbers_in_strategies(strategy: Any) -> None:
    """Every number among the parameters of every strategy, given to its class and in a description."""
    defaults = {key: each.default for key, each in strategy.parameters().items() if not each.nested}
    as_numpy = {key: of_numpy(value) for key, value in defaults.items()}
    assert strategy(**as_numpy) == strategy.build(as_numpy, "x") == strategy()
    assert json.dumps(strategy(**as_numpy).to_dict()) == json.dumps(strategy().to_dict())
    for key, value in as_numpy.items():
        assert type(getattr(strategy(**as_numpy), key)) is type(defaults[key]), (key, value)


def of_numpy(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(of_numpy, value))
    kinds: dict[type, Any] = {int: np.int64, float: np.float64}
    return kinds[type(value)](value) if type(value) in kinds else value


def test_numbers_of_numpy_are_numbers_in_recipes() -> None:
    share = np.float32(0.3)
    described = {"plan": {"type": "staged", "share": share}, "step_share": np.float32(0.5), "name": "custom"}
    recipe = Recipe.from_dict(described)
    assert recipe == Recipe(Staged(share=share), step_share=np.float32(0.5))
    assert (recipe.plan.share, recipe.step_share) == (float(share), 0.5)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    for wrong in (np.float32("nan"), np.float32(2)):
        with pytest.raises(InvalidInput, match="share"):
            Recipe.from_dict(described | {"plan": {"type": "staged", "share": wrong}})

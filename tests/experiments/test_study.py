"""Studies: their arms are valid recipes with one budget, and differ in nothing else."""

import pytest
import torch

from statefilm.experiments import STUDIES, shortened
from statefilm.experiments.catalogue import MINUTES
from statefilm.experiments.study import flops_of_step
from statefilm.models import build
from statefilm.models.vae import build_vae
from statefilm.training import load_recipe

FREE = [name for name, study in STUDIES.items() if study.before is None]


@pytest.mark.parametrize("name", FREE)
def test_every_arm_is_a_recipe_that_changes_what_it_says(name):
    study = STUDIES[name]
    assert study.baseline in study.arms
    base = study.recipe_of(study.baseline, seed=3)
    assert base.seed == 3
    assert base.steps == study.steps or (study.equal == "flops" and study.arms[study.baseline])
    for arm in study.arms:
        recipe = study.recipe_of(arm, seed=3)
        assert recipe.data == base.data and recipe.objective == base.objective
        assert recipe.max_minutes == base.max_minutes
        assert (recipe == base) == (arm == study.baseline)


@pytest.mark.parametrize("name", ["dit", "ratio", "mixer", "position"])
def test_arms_of_equal_flops_spend_the_same(name):
    study = STUDIES[name]
    assert study.equal == "flops"
    recipes = [study.recipe_of(arm, seed=0) for arm in study.arms]
    spent = [recipe.steps * flops_of_step(recipe) for recipe in recipes]
    assert max(spent) / min(spent) < 1.001
    assert len({recipe.steps for recipe in recipes}) > 1
    shipped = load_recipe(study.recipe)
    assert spent[0] == pytest.approx(study.steps * flops_of_step(shipped), rel=1e-3)


@pytest.mark.parametrize("name", ["dit", "ratio", "mixer", "mixer-time", "position"])
def test_arms_have_the_same_size(name):
    study = STUDIES[name]
    sizes = []
    for arm in study.arms:
        source = study.recipe_of(arm, 0).model
        with torch.device("meta"):
            model = build(source.preset, **source.overrides)
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert max(sizes) / min(sizes) < 1.001


def test_arms_of_equal_time_stop_by_the_clock():
    study = STUDIES["mixer-time"]
    recipes = [study.recipe_of(arm, seed=0) for arm in study.arms]
    assert {(recipe.max_minutes, recipe.optimizer.schedule_by) for recipe in recipes} == {
        (MINUTES, "time")
    }


def test_arms_on_latents_begin_with_a_vae_and_have_as_many_tokens(tmp_path):
    study = STUDIES["latents"]
    build_vae("world_vae").save_pretrained(tmp_path / "vae")
    arms = {arm: study.recipe_of(arm, 0, str(tmp_path)) for arm in study.arms}
    assert study.before.recipe_for(0).kind == "vae"
    vaes = [None, None, str(tmp_path), str(tmp_path)]
    assert [recipe.vae for recipe in arms.values()] == vaes
    assert [study.is_on_latents(arm) for arm in arms] == [False, False, True, True]
    # The blocks do the same; what differs is the stem and head of pixels.
    pixels, _, *latents = (flops_of_step(recipe) for recipe in arms.values())
    assert 0.8 < latents[0] / pixels < 1 and latents[0] == latents[1]


def test_added_blocks_cost_what_blocks_cost(tmp_path):
    study = STUDIES["temporal"]
    source = tmp_path / "before" / "pipeline"
    first = study.before.recipe_for(0).model
    build(first.preset, **first.overrides).save_config(source / "transformer")
    (source / "model_index.json").write_text("{}")
    costs = [
        flops_of_step(study.recipe_of(arm, 0, str(tmp_path / "before")))
        for arm in ("none", "none, 4 added")
    ]
    assert 1.2 < costs[1] / costs[0] < 1.4  # four blocks beside eleven, a stem and a head


def test_a_study_by_the_clock_is_shortened_in_minutes():
    part = shortened(STUDIES["mixer-time"], 0.1)
    minutes = [part.recipe_of(arm, 0).max_minutes for arm in part.arms]
    assert minutes == pytest.approx([MINUTES / 10] * len(part.arms))
    whole = STUDIES["latents"]
    assert shortened(whole, 0.01).before.steps == whole.before.steps // 100


def test_a_shortened_study_keeps_everything_but_its_steps():
    whole = STUDIES["temporal"]
    part = shortened(whole, 0.01)
    assert (part.steps, part.before.steps) == (whole.steps // 100, whole.before.steps // 100)
    assert part.arms == whole.arms and part.measures == whole.measures

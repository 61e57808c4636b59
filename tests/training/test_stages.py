"""The recipes in stages: each goes on from the one before, at the size of smoke."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from statefilm import HTHPipeline
from statefilm.training import load_recipe, shipped_recipes
from statefilm.training.planning import Hardware, plan_recipe
from statefilm.training.planning.sources import without_weights

from .conftest import metrics, train

FAMILIES = ("hth_5b", "hth_300m", "world")
STAGES = {
    family: [n for n in shipped_recipes() if n.startswith(f"{family}/")] for family in FAMILIES
}
SMOKE = ("steps=2", "max_minutes=null", "optimizer.schedule_by=steps", "log.every_steps=1")
QUICK = ("compile=none", "samples.every_steps=2", "samples.steps=1", "precision=float32")
CLUSTER = Hardware(devices=64, memory=80 * 10**9, rate=989e12)


def test_the_world_in_four_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = []
    for name in STAGES["world"]:
        recipe = load_recipe(name, [*SMOKE, *QUICK])
        streams = [stream.model_copy(update={"batch_size": 2}) for stream in recipe.data]
        recipe = recipe.model_copy(update={"data": tuple(streams)})
        saved = train(recipe, tmp_path / "runs" / recipe.name)
        assert all(math.isfinite(line["loss"]) for line in metrics(saved.parent))
        assert len([*(saved.parent / "samples").iterdir()]) == 1
        models.append(HTHPipeline.from_pretrained(saved))
    plans = [model.transformer.config.plan for model in models]
    assert plans[0] == plans[1] != plans[2] == plans[3]
    moved = [a != b for a, b in zip(plans[0], plans[2], strict=True)]
    assert sum(moved) == 4
    names = {tuple(model.transformer.state_dict()) for model in models}
    assert len(names) == 1
    sizes = [(m.default_size(1), m.default_size(17)) for m in models]
    small, large = (32, 32), (64, 64)
    assert sizes == [(small, small), (large, large), (large, small), (large, large)]
    assert models[3].config.default_num_frames == 17


@pytest.mark.parametrize("family", FAMILIES)
def test_each_stage_stands_on_the_one_before(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = [load_recipe(name) for name in STAGES[family]]
    assert len(recipes) == 4
    for before, recipe in itertools.pairwise(recipes):
        assert recipe.model.init_from == f"runs/{before.name}"
    for recipe in recipes:
        assert without_weights(recipe).model.preset == recipes[0].model.preset
    assert [recipe.model.plan is not None for recipe in recipes] == [False, False, True, False]
    assert {len(recipe.data) for recipe in recipes[:2]} == {1}
    assert {len(recipe.data) for recipe in recipes[2:]} == {2}  # clips and images


@pytest.mark.parametrize("name", STAGES["hth_300m"])
def test_the_stages_for_one_gpu_fit_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan_recipe(load_recipe(name), replace(CLUSTER, devices=1)).fits


@pytest.mark.parametrize("name", STAGES["hth_5b"])
def test_the_published_stages_fit_a_cluster(name, tmp_path, monkeypatch, warnings_of):
    monkeypatch.chdir(tmp_path)
    plan = plan_recipe(load_recipe(name), CLUSTER)
    assert plan.fits
    assert plan.model.parameters == pytest.approx(5e9, rel=0.02)
    assert plan.days > 0
    said = warnings_of()
    assert len(said) == len(load_recipe(name).data)
    assert all("is not there yet" in line for line in said)
    assert torch.get_default_dtype() == torch.float32

"""Recipes: all shipped ones are valid, and what is wrong is named in one line."""

import pytest
import yaml

from statefilm.training import load_recipe, shipped_recipes
from statefilm.training.loading import dump_recipe

SMOKED = (
    "world_t2i",
    "world_t2v",
    "world_joint",
    "world_refine",
    "world_vae",
    "world_text",
    "world_bind",
    "world_finish",
    "world_order",
    "world_pairs",
    "world_motion",
    "clips_maze",
    "clips_balls",
)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_round_trip(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name.replace("/", "-")
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe), "utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_what_trains_a_bundled_model_has_its_smoke_version():
    assert {*SMOKED, *(f"smoke_{name}" for name in SMOKED)} <= set(shipped_recipes())


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("optimizer.lrr=3", ["optimizer.lrr", "did you mean 'optimizer.lr'", "momentum"]),
        ("stepps=3", ["stepps", "did you mean 'steps'"]),
        ("data.0.batchsize=8", ["data.0.batchsize", "did you mean 'data.0.batch_size'"]),
        ("data.0.world.sise=8", ["data.0.world.sise", "did you mean 'data.0.world.size'"]),
        ("objective.timesteps.logit_normal.0.men=1", ["logit_normal.0.mean"]),
        ("model.plan.fraction=1", ["model.plan.fraction", "temporal_fraction"]),
        ("steps=-4", ["steps = -4", "greater than or equal to 1"]),
        ("steps=many", ["steps = 'many'"]),
        ("optimizer.lr=.nan", ["optimizer.lr = nan", "finite"]),
        ("model.preset=hth_tinny", ["model.preset", "did you mean 'hth_tiny'"]),
        ("text.preset=t5", ["text.preset", "choose from"]),
        ("data.0.world.mix={colour: 1}", ["data.0.world.mix", "did you mean 'color'"]),
        ("data.0.world.split=test", ["split", "choose from"]),
        ("data.0.world.order=raeding", ["order", "did you mean 'reading'"]),
        ("data=[]", ["data = []"]),
        ("data.0.clips.world=maze", ["data.0", "one of world, clips, files and latents"]),
        ("data.0={clips: {world: mase}}", ["data.0.clips.world", "did you mean 'maze'"]),
        ("data.0={clips: {world: maze, num_frames: 0}}", ["num_frames = 0", "equal to 1"]),
        ("data.0={clips: {world: maze, size: 33}}", ["size = 33", "multiple of 2"]),
        ("objective.train_timesteps=1", ["train_timesteps = 1", "equal to 2"]),
        ("model.init_from=here", ["model", "either preset or init_from"]),
        ("optimizer.schedule_by=time", ["max_minutes"]),
        ("kind=vea", ["did you mean 'vae'"]),
        ("kind=vae", ["key 'vae' is missing"]),
        ("name=../elsewhere", ["name = '../elsewhere'", "pattern"]),
        ("name=''", ["name = ''"]),
        ("kind=[vae]", ["unknown kind of recipe"]),
        ("data.7.batch_size=8", ["'7' must be * or a number below 1"]),
        ("*.lr=1", ["'*'"]),
        ("data.*.batchsize=8", ["data.0.batchsize", "did you mean 'data.0.batch_size'"]),
        ("samples.prompts.0.0=a", ["'a red circle' has no part '0'"]),
        ("optimizer.lr", ["key=value"]),
        ("optimizer.lr=[", ["not YAML"]),
    ],
)
def test_bad_changes_are_named_in_one_line(change, parts):
    with pytest.raises(ValueError) as caught:
        load_recipe("smoke_world_t2i", [change])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_changes_reach_nested_values_and_sections_left_at_their_defaults():
    changes = ["optimizer.lr=5e-3", "data.0.batch_size=7", "ema.decay=0.5", "max_minutes=2"]
    recipe = load_recipe("smoke_world_t2i", changes)
    assert recipe.optimizer.lr == 5e-3
    assert recipe.data[0].batch_size == 7
    assert recipe.ema.decay == 0.5
    assert recipe.max_minutes == 2


def test_a_star_changes_every_entry_of_a_list():
    recipe = load_recipe("own_clips", ["data.*.files.path=mine", "data.1.batch_size=5"])
    assert [one.files.path for one in recipe.data] == ["mine", "mine"]
    assert [one.batch_size for one in recipe.data] == [8, 5]


def test_a_missing_key_is_named(write):
    fields = yaml.safe_load(shipped_recipes()["smoke_world_t2i"].read_text("utf-8"))
    del fields["text"]
    with pytest.raises(ValueError, match="key 'text' is missing"):
        load_recipe(write(yaml.safe_dump(fields)))


@pytest.mark.parametrize("text", ["- a\n- b", "steps: [", "just words", ""])
def test_files_that_hold_no_mapping_are_refused(write, text):
    with pytest.raises(ValueError) as caught:
        load_recipe(write(text))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_missing_files():
    with pytest.raises(ValueError, match="did you mean 'world_vae'"):
        load_recipe("world_vea")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_recipe("nowhere.yaml")


def test_recipes_do_not_change_once_read():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("smoke_world_t2i").steps = 3

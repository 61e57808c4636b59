"""The study of quality at toy size: equal arms, trained, judged and written up by a command."""

from dataclasses import replace

import pytest

from statefilm.cli.main import run
from statefilm.errors import UsageError
from statefilm.evaluation.world import Metric
from statefilm.experiments import Study, run_study
from statefilm.experiments.runner import Outcome
from statefilm.experiments.study import ClipMeasures
from statefilm.experiments.temporal import quality_studies, study_folder, write_quality_page
from statefilm.experiments.temporal.quality import COMPARED
from statefilm.experiments.temporal.quality_page import found
from statefilm.models import build
from statefilm.models.unet import temporal_parameters

TOY = {
    "steps": 2,
    "data.0.batch_size": 1,
    "model.overrides.dim": 8,
    "model.overrides.multipliers": [1, 2],
    "model.overrides.groups": 2,
    "model.overrides.spatial_heads": 1,
}
MEASURES = ClipMeasures(clips=16, steps=1, loss_samples=2)


def toy(**settings):
    (study,) = quality_studies(
        ["balls"], [3], arms=["s6-uni", "s6-bi"], measures=MEASURES, changes=TOY, **settings
    )
    return study


def test_arms_are_recipes_of_equal_size_that_differ_in_the_mixer_alone():
    balls, maze = quality_studies(frames=[64])
    sizes = {}
    for arm in COMPARED:
        recipe = maze.recipe_of(arm, 1)
        model = build(recipe.model.preset, **recipe.model.overrides)
        sizes[arm] = temporal_parameters(model)
        base = maze.recipe_of("attention", 1)
        assert recipe.data == base.data and recipe.steps == base.steps == balls.steps
    assert max(sizes.values()) / min(sizes.values()) < 1.1
    section = recipe.data[0].clips
    assert (section.world, section.num_frames, recipe.data[0].batch_size) == ("maze", 64, 1)


def test_clips_of_all_lengths_are_as_many_frames():
    studies = quality_studies(["maze"], [16, 64, 256])
    recipes = [study.recipe_of("attention", 0) for study in studies]
    drawn = {r.steps * r.data[0].batch_size * r.data[0].clips.num_frames for r in recipes}
    assert len(drawn) == 1 and recipes[0].steps > recipes[-1].steps


def test_minutes_bound_every_arm_alike():
    study = toy(minutes=0.5)
    recipes = [study.recipe_of(arm, 0) for arm in study.arms]
    assert list(study.arms) == ["attention", "s6-uni", "s6-bi"] and study.equal == "minutes"
    assert {recipe.max_minutes for recipe in recipes} == {0.5}


def test_arms_are_trained_judged_and_written_up(tmp_path):
    study = replace(toy(), steps=2)
    runs = tmp_path / study_folder(study)
    outcomes = run_study(study, runs, [0])
    for one in outcomes:
        assert one.steps == 2 and one.flops > 0
        assert {"fvd_rand128", "count", "collisions"} <= set(one.metrics)
        assert one.metrics["fvd_rand128"].value > one.metrics["fvd_rand128"].floor > 0
        assert all(len(errors) == 2 for errors in one.losses.values())
    assert run_study(study, runs, [0]) == outcomes
    page = write_quality_page([study], [outcomes], tmp_path, tmp_path / "page")
    text = page.read_text("utf-8")
    assert text.startswith("# Study: temporal-quality\n")
    for part in ("## Balls, 3 frames", "### Figures", "real", "fvd_rand128", "2 steps of the"):
        assert part in text
    sentence = text.split("## Found")[1]
    assert "Against attention, at this budget and with 1 seed" in sentence
    assert "In the loss s6-bi is" in sentence and "takes two seeds to claim" in sentence
    folder = tmp_path / "page" / "temporal-quality-balls-3-frames"
    pictures = {file.name for file in folder.iterdir()}
    assert {"plot.png", "samples-0.png", "samples-2.png"} <= pictures


def outcome(arm, seed, losses):
    metric = {"value": 1.0, "low": 0.9, "high": 1.1, "n": 4, "floor": 0.5}
    return Outcome(arm, seed, 1, 1, 1.0, 1.0, {"fvd_rand128": Metric(**metric)}, {"video": losses})


@pytest.mark.parametrize(
    ("two_ways", "words"),
    [([0.5, 0.6, 0.55], "s6-bi is better than"), ([1.1, 0.9, 1.0], "is no different from")],
)
def test_the_sentence_follows_the_intervals(two_ways, words):
    study = Study("toy", "?", {}, baseline="attention", headline="fvd_rand128")
    arms = {
        name: [outcome(name, seed, losses) for seed in (0, 1)]
        for name, losses in (
            ("attention", [1.0, 1.0, 1.0]),
            ("s6-uni", [1.0, 1.01, 0.99]),
            ("s6-bi", two_ways),
        )
    }
    assert words in found(study, arms)
    assert "in fvd_rand128 no difference was found" in found(study, arms)


def test_bad_input_is_named(capsys, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'maze'"):
        quality_studies(["mase"])
    for words, message in (
        (["--worlds", "bals"], "did you mean 'balls'"),
        (["--worlds", ""], "--worlds '': valid are some of balls"),
        (["--arms", "s6"], "unknown arm 's6'"),
        (["--frames", "0"], "whole numbers from 1 on"),
        (["--minutes", "0"], "valid is more than 0"),
        (["--minutes", "1", "--share", "0.5"], "give it, or --minutes"),
    ):
        folder = tmp_path / "out"
        assert run(["experiment", "temporal-quality", *words, "-o", str(folder)]) == 2
        assert message in capsys.readouterr().err and not folder.exists()

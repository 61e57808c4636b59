"""The study `temporal-quality`: the same training for U-Nets of different temporal mixers."""

from __future__ import annotations

from collections.abc import Sequence

from statefilm.data.worlds import find_world
from statefilm.errors import check_stepped
from statefilm.experiments.study import MANY_STEPS, Changes, ClipMeasures, Study, timed
from statefilm.experiments.temporal.arms import (
    ARMS,
    ATTENTION,
    Arm,
    choose_arms,
    matched,
    parameters_of,
)
from statefilm.experiments.temporal.subjects import temporal_widths
from statefilm.models.unet import UNET_PRESETS
from statefilm.training import load_recipe
from statefilm.training.recipe import UNetRecipe

NAME = "temporal-quality"
QUESTION = (
    "Which temporal layer makes the best clips after the same training: softmax or linear "
    "attention, or a state space, and must it see both ways?"
)
RECIPE = "experiment_clips"
WORLDS = ("balls", "maze")
COMPARED = (ATTENTION, "linear-attention", "s4d-uni", "s4d-bi", "s6-uni", "s6-bi", "hydra")
# Both of a kind, one way and two ways: what seeing both ways brings.
WAYS = (("s4d-bi", "s4d-uni"), ("s6-bi", "s6-uni"))
FRAMES_A_STEP = 64  # as far as clips go into it; with the recipe's steps, the frames of all arms


def quality_studies(
    worlds: Sequence[str] = WORLDS,
    frames: Sequence[int] = (16,),
    *,
    arms: Sequence[str] | None = None,
    minutes: float | None = None,
    measures: ClipMeasures | None = None,
    recipe: str = RECIPE,
    changes: Changes | None = None,
) -> list[Study]:
    """A study for each world and length of clips, all arms with as many parameters as bi-S6.

    Args:
        arms: names of `COMPARED`; None is all. Attention, the baseline, is always among them.
        minutes: of training for each arm in place of equal steps.
        measures: how arms are judged; None is the default.
        changes: of the recipe, in all arms.

    Raises:
        UsageError: an unknown world or arm, or frames below 1.
    """
    for world in worlds:
        find_world(world)
    for length in frames:
        check_stepped("frames", length, 1)
    names = choose_arms(arms, COMPARED)
    names = names if ATTENTION in names else [ATTENTION, *names]
    base = load_recipe(recipe)
    assert isinstance(base, UNetRecipe) and base.model.preset is not None
    shared = dict(changes or {})
    overrides = {
        key.removeprefix("model.overrides."): value
        for key, value in shared.items()
        if key.startswith("model.overrides.")
    }
    widths = temporal_widths(
        {**UNET_PRESETS[base.model.preset], **base.model.overrides, **overrides}
    )
    layers = {name: equal(name, widths) for name in names}
    studies = []
    for world in worlds:
        for length in frames:
            setting = {
                "data.0.clips.world": world,
                "data.0.clips.num_frames": length,
                "data.0.batch_size": max(1, FRAMES_A_STEP // length),
                "samples.num_frames": length,
                **({} if minutes is None else timed(minutes)),
                **shared,
            }
            frames_a_step = setting["data.0.batch_size"] * length
            steps = max(1, round(base.steps * FRAMES_A_STEP / frames_a_step))
            studies.append(
                Study(
                    f"{world}, {length} frames",
                    QUESTION,
                    {name: {**setting, **_changes(layer)} for name, layer in layers.items()},
                    baseline=ATTENTION,
                    recipe=recipe,
                    steps=steps if minutes is None else MANY_STEPS,
                    equal="steps" if minutes is None else "minutes",
                    measures=measures or ClipMeasures(),
                    headline="fvd_rand128",
                )
            )
    return studies


def equal(name: str, widths: Sequence[int]) -> Arm:
    """An arm with the options that give it the parameters of bi-S6, within 5 %."""
    arm = matched(ARMS[name], widths, parameters_of(ARMS["s6-bi"], widths))
    assert arm is not None  # all of `COMPARED` have such options
    return arm


def _changes(arm: Arm) -> Changes:
    return {
        "model.overrides.temporal_mixer": arm.mixer,
        "model.overrides.temporal_mixer_options": dict(arm.options),
    }

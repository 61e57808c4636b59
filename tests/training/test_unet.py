"""Runs of video U-Nets: every kind of conditioning, resume, and what does not fit."""

import math

import pytest
import torch

from statefilm.models import build
from statefilm.pipelines import VideoDiffusionPipeline
from statefilm.training import Trainer, load_recipe

from .conftest import assert_same_run, metrics, train, weights

TEXT = (
    "model.overrides.num_classes=null",
    "model.overrides.text_dim=32",
    "text={preset: world_t5, overrides: {d_model: 32, d_kv: 8, d_ff: 32, num_layers: 1}, "
    "train: true}",
    "samples.prompts=[two balls bounce]",
)
CONDITIONS = {
    "nothing": ["model.overrides.num_classes=null"],
    "classes": [],
    "text": TEXT,
    "both": [change for change in TEXT if "num_classes" not in change],
}


def unet_recipe(*changes):
    return load_recipe("smoke_clips_maze", ["steps=2", "samples.every_steps=0", *changes])


def task_of(recipe, folder):
    trainer = Trainer(recipe, folder, device="cpu", quiet=True)
    trainer._build()
    return trainer.task


@pytest.mark.parametrize("objective", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_conditioning_and_objective_trains_and_samples(condition, objective, tmp_path):
    changes = [*CONDITIONS[condition], f"objective.type={objective}", "samples.every_steps=2"]
    saved = train(unet_recipe(*changes), tmp_path)
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path))
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-00000002.mp4"]
    pipe = VideoDiffusionPipeline.from_pretrained(saved)
    assert (pipe.text_encoder is not None) == (condition in ("text", "both"))
    assert (pipe.config.class_names is not None) == (condition in ("classes", "both"))
    assert pipe.config.default_guidance_scale == (1 if condition == "nothing" else 3)
    assert (pipe.config.default_num_frames, pipe.config.default_height) == (4, 32)


def test_resume_of_a_unet_is_exact_to_the_bit(tmp_path):
    recipe = unet_recipe("steps=4", "checkpoint.every_steps=2", "log.every_steps=3")
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "broken")
    for folder in (tmp_path / "broken").glob("checkpoints/step-00000004/*"):
        folder.write_bytes(b"")
    train(recipe, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken", 4)


def test_a_run_goes_on_from_a_saved_unet_and_its_text_encoder(tmp_path):
    first = train(unet_recipe(*CONDITIONS["both"]), tmp_path / "first")
    sources = [
        f"model={{init_from: {tmp_path / 'first'}}}",
        f"text={{init_from: {tmp_path / 'first'}, train: true}}",
    ]
    task = task_of(unet_recipe(*sources), tmp_path / "second")
    saved = VideoDiffusionPipeline.from_pretrained(first)
    for mine, theirs in ((task.unet, saved.unet), (task.text.encoder, saved.text_encoder)):
        pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)


def test_dropped_classes_are_the_class_of_none(tmp_path):
    task = task_of(unet_recipe("objective.caption_dropout=1"), tmp_path)
    assert task._conditions(task.batches[0])["class_labels"].eq(6).all()
    task = task_of(unet_recipe("objective.caption_dropout=0"), tmp_path)
    labels = task._conditions(task.batches[0])["class_labels"]
    assert (labels < 6).all() and (labels >= 0).all()


def test_errors_are_of_each_sample_and_their_mean_is_the_loss(tmp_path):
    task = task_of(unet_recipe(), tmp_path)
    batch = task.batches[0]
    errors = task.errors(batch)
    assert errors.shape == (2,) and not errors.requires_grad
    torch.testing.assert_close(errors.mean(), task.loss(batch).detach())


def test_gradient_checkpointing_changes_nothing(tmp_path):
    train(unet_recipe(), tmp_path / "plain")
    train(unet_recipe("gradient_checkpointing=true"), tmp_path / "checkpointed")
    one, two = weights(tmp_path / "plain", 2), weights(tmp_path / "checkpointed", 2)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_compiling_covers_every_block_and_keeps_the_names(tmp_path):
    task = task_of(unet_recipe("compile=blocks"), tmp_path)
    plain = build("unet_tiny", **unet_recipe().model.overrides)
    assert task.unet.state_dict().keys() == plain.state_dict().keys()
    blocks = [m for m in task.unet.modules() if type(m).__name__ in task.unet._repeated_blocks]
    assert blocks and all(block._compiled_call_impl is not None for block in blocks)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["model.overrides.multipliers=[1,1,1,1,1,1,1]"],
            r"clips\.size 32 is not a multiple of 64",
        ),
        (["data.0.clips.world=balls"], r"has 6 classes, data\.0\.clips has 4"),
        (["data.0={world: {size: 32}}"], r"has 6 classes, data\.0\.world has none"),
        ([TEXT[2]], "reads no text: leave text out"),
        (["model.overrides.text_dim=32"], "text of width 32: text is missing"),
        (["model.overrides.text_dim=16", *TEXT[2:]], "text of width 16, the encoder has 32"),
        (["model.overrides.in_channels=1"], "takes 1 channels, pixels have 3"),
        (["model.overrides.temporal_mixer=s7"], "unknown temporal mixer 's7'"),
        (["model={init_from: world-64}"], "which has no unet"),
        (["samples.num_frames=0"], "samples.num_frames = 0"),
        (["data.0.clips.num_frames=0"], "num_frames = 0"),
        (["model.preset=hth_tiny"], "unknown preset 'hth_tiny'"),
        (["objective.video_shift=2"], "objective.video_shift"),
    ],
)
def test_recipes_whose_parts_do_not_fit_are_refused_in_one_line(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        train(unet_recipe(*changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()

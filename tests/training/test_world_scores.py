"""World scores while training: of averaged weights, the same every time, in no one's way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from statefilm import load_pipeline
from statefilm.cli.train import world_scores
from statefilm.errors import UsageError
from statefilm.evaluation.world import evaluate_t2v, generator
from statefilm.training import Trainer, load_recipe
from statefilm.training.recipe import Samples

from .conftest import TINY, assert_same_run, metrics, tiny_recipe, train, weights

ROOT = Path(__file__).parents[2]
# The later value of a key counts: `tiny_recipe` turns samples off.
SCORED = ["samples.every_steps=2", "samples.steps=1", "samples.world_scores=2"]
SHAPES = ("circle", "square", "triangle")  # what can be told apart at 32 pixels


def brightness(pipe, samples):
    """A score that each change of weights, seed or number changes."""

    def score():
        seeds = [samples.seed + index for index in range(samples.world_scores)]
        torch.rand(3)  # from the global generator, which no step may notice
        generate = generator(pipe, 1, num_inference_steps=samples.steps)
        pictures = generate(["a red circle"] * len(seeds), seeds)
        return {"mean": pictures.mean().item(), "spread": pictures.std().item()}

    return score


def train_scored(recipe, folder, score=brightness, quiet=True):
    return Trainer(recipe, folder, device="cpu", quiet=quiet, score=score).fit()


def scores(folder):
    """Step to scores."""
    lines = [line for line in metrics(folder) if "loss" not in line]
    return {line.pop("step"): line for line in lines}


def test_they_are_those_of_averaged_weights_at_the_steps_of_samples(tmp_path, capsys):
    saved = train_scored(tiny_recipe(*SCORED, "ema.decay=0.5"), tmp_path, quiet=False)
    assert list(scores(tmp_path)) == [2, 4]
    assert sorted(path.name[:13] for path in (tmp_path / "samples").iterdir()) == [
        "step-00000002",
        "step-00000004",
    ]
    pipe = load_pipeline(saved, "float32", "cpu")
    pipe.set_progress_bar_config(disable=True)
    found = brightness(pipe, Samples(steps=1, world_scores=2))()
    assert scores(tmp_path)[4] == {f"world/{name}": value for name, value in found.items()}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "step 4: world" in line]
    assert line == f"step 4: world scores mean {found['mean']:.3f}, spread {found['spread']:.3f}"


def test_looking_changes_nothing(tmp_path):
    train(tiny_recipe(), tmp_path / "blind")
    train_scored(tiny_recipe(*SCORED), tmp_path / "seeing")
    assert [one for one in metrics(tmp_path / "seeing") if "loss" in one] == metrics(
        tmp_path / "blind"
    )
    one, two = weights(tmp_path / "blind", 4), weights(tmp_path / "seeing", 4)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_that_goes_on_has_each_score_once(tmp_path):
    recipe = tiny_recipe(*SCORED, "checkpoint.every_steps=2")

    def killed(pipe, samples):
        """Ends the run while step 4 is scored, before its checkpoint."""
        score, calls = brightness(pipe, samples), []

        def once():
            calls.append(1)
            if len(calls) == 2:
                raise MemoryError("killed")
            return score()

        return once

    train_scored(recipe, tmp_path / "whole")
    with pytest.raises(MemoryError):
        train_scored(recipe, tmp_path / "broken", killed)
    train_scored(recipe, tmp_path / "broken")
    assert list(scores(tmp_path / "whole")) == [2, 4]
    assert_same_run(tmp_path / "whole", tmp_path / "broken", 4)


def test_a_model_that_fails_to_draw_trains_on(tmp_path, capsys):
    def failing(pipe, samples):
        def score():
            raise FloatingPointError("denoising step 1 of 1 gave NaN")

        return score

    train_scored(tiny_recipe(*SCORED), tmp_path, failing, quiet=False)
    assert "no world scores at step 2: denoising step 1 of 1 gave NaN" in capsys.readouterr().err
    assert not scores(tmp_path) and metrics(tmp_path)[-1]["step"] == 4


def test_a_clip_model_is_judged_by_its_motion_too(smoke_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(smoke_runs)
    changes = ["steps=1", "samples.every_steps=1", "samples.steps=1", "samples.world_scores=2"]
    recipe = load_recipe("smoke_world_t2v", [*changes, "samples.seed=3"])
    saved = train_scored(recipe, tmp_path, world_scores)
    pipe = load_pipeline(saved, "float32", "cpu")
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 1, "guidance_scale": recipe.samples.guidance_scale}
    clips = evaluate_t2v(generator(pipe, 5, **settings), clips=2, shapes=SHAPES, seed=3)
    found = scores(tmp_path)[1]
    assert found["world/motion_class"] == clips.metrics["motion_class"].value
    assert len(found) == 8


TWO_PROCESSES = """
import sys
import torch.distributed as dist
from statefilm.training import Trainer, load_recipe
from tests.training.test_world_scores import brightness

dist.init_process_group("gloo")
for name, *changes in (["replicate"], ["shard", "parallel.shard=2"]):
    recipe = load_recipe("smoke_world_t2i", [*sys.argv[2:], *changes])
    Trainer(recipe, f"{sys.argv[1]}/{name}", device="cpu", quiet=True, score=brightness).fit()
dist.destroy_process_group()
"""


def test_several_processes_agree_with_one(tmp_path):
    changes = [*TINY, *SCORED, "steps=2", "optimizer={name: adamw, lr: 0.001}"]
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    launcher = [*(sys.executable, "-m", "torch.distributed.run"), "--standalone"]
    subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), str(tmp_path), *changes],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
        capture_output=True,
    )
    train_scored(load_recipe("smoke_world_t2i", changes), tmp_path / "one")
    expected = scores(tmp_path / "one")
    for name in ("replicate", "shard"):
        found = scores(tmp_path / name)
        assert list(found) == list(expected) == [2]
        assert found[2] == pytest.approx(expected[2], rel=1e-4)


def test_without_a_judge_the_recipe_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"samples\.world_scores 2 needs .* give Trainer"):
        train(tiny_recipe(*SCORED), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["smoke_world_vae", "smoke_clips_balls"])
def test_models_that_read_no_text_are_refused(name):
    with pytest.raises(ValueError, match=r"samples\.world_scores 2 is for kind denoiser"):
        load_recipe(name, ["samples.world_scores=2"])


@pytest.mark.parametrize(
    ("size", "samples", "words"),
    [
        ((32, 48), {}, "pictures of 48x32 cannot be read back, valid are squares of 32 to 256"),
        ((24, 24), {}, "pictures of 24x24"),
        ((264, 264), {}, "pictures of 264x264"),
        ((32, 32), {"num_frames": 3}, "samples.num_frames 3 is too short"),
    ],
)
def test_sizes_that_cannot_be_read_are_refused_at_the_start(size, samples, words, tmp_path):
    def judge(pipe, _):
        pipe.register_to_config(default_height=size[0], default_width=size[1])
        return world_scores(pipe, Samples(world_scores=2, **samples))

    with pytest.raises(UsageError, match=words) as caught:
        train_scored(tiny_recipe(*SCORED), tmp_path / "run", judge)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()

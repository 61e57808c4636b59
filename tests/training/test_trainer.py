"""The loop: recipes run, resume is exact, and no kind of stop loses anything.

`STATEFILM_KILLS=50` kills a run so often in place of the few times of every day.
"""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from statefilm import HTHPipeline
from statefilm.errors import UsageError
from statefilm.models.text import load_text_encoder
from statefilm.models.vae import load_vae
from statefilm.pipelines import VideoDiffusionPipeline
from statefilm.training import Trainer, load_recipe, shipped_recipes

from .conftest import TINY, assert_same_run, metrics, tiny_recipe, train, weights

KILLS = int(os.environ.get("STATEFILM_KILLS", "5"))
SMOKE = [name for name in shipped_recipes() if name.startswith("smoke_")]


def test_the_last_samples_are_those_of_the_end(tmp_path):
    recipe = load_recipe("smoke_world_t2i", ["steps=3", "samples.every_steps=2"])
    train(recipe, tmp_path)
    first, last = sorted((tmp_path / "samples").iterdir())
    assert (first.name, last.name) == ("step-00000002.png", "step-00000003.png")
    last.unlink()
    train(recipe, tmp_path)  # it is over, and makes none again
    assert [*(tmp_path / "samples").iterdir()] == [first]


@pytest.mark.parametrize("name", SMOKE)
def test_every_smoke_recipe_trains_samples_and_saves_a_model(
    name, smoke_runs, tmp_path, monkeypatch
):
    monkeypatch.chdir(smoke_runs)
    recipe = load_recipe(name, ["steps=2", "samples.every_steps=2"])
    saved = train(recipe, tmp_path)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path))
    suffix = ".mp4" if recipe.samples.num_frames > 1 else ".png"
    suffix = ".jsonl" if recipe.kind == "text" else suffix
    assert [path.name for path in (tmp_path / "samples").iterdir()] == [f"step-00000002{suffix}"]
    if recipe.kind == "vae":
        assert load_vae(saved).config.scaling_factor != 1
    elif recipe.kind == "text":
        assert load_text_encoder(saved)[1].config.d_model == 32
    elif recipe.kind == "unet":
        pipe = VideoDiffusionPipeline.from_pretrained(saved)
        pipe.set_progress_bar_config(disable=True)
        prompt = recipe.samples.prompts[0] if recipe.samples.prompts else None
        clip = pipe(prompt, num_frames=3, num_inference_steps=1).frames[0]
        assert [image.size for image in clip] == [(32, 32)] * 3
    else:
        pipe = HTHPipeline.from_pretrained(saved)
        pipe.set_progress_bar_config(disable=True)
        assert pipe("a red circle", num_inference_steps=1).images[0].size == (32, 32)


def test_the_saved_model_carries_the_average_and_the_video_plan(smoke_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(smoke_runs)
    saved = train(load_recipe("smoke_world_t2v", ["steps=2", "samples.every_steps=0"]), tmp_path)
    average = load_file(tmp_path / "checkpoints" / "step-00000002" / "ema.safetensors")
    stored = load_file(saved / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(average[f"transformer.{name}"], stored[name]) for name in stored)
    image = HTHPipeline.from_pretrained(smoke_runs / "runs" / "smoke_world_t2i" / "pipeline")
    video = HTHPipeline.from_pretrained(saved)
    plans = image.transformer.config.plan, video.transformer.config.plan
    assert [b["image_scan"] for b in plans[0]] == [b["image_scan"] for b in plans[1]]
    assert sum(b["video_scan"] in ("TH", "TV") for b in plans[1]) == 4
    assert video.config.default_num_frames == 5


def test_resume_is_exact_to_the_bit(smoke_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(smoke_runs)
    # Two streams, and means over four steps that the interruption at three cuts in two.
    changes = ["steps=6", "samples.every_steps=0", "log.every_steps=2"]
    recipe = load_recipe("smoke_world_t2v", [*changes, "checkpoint.every_steps=3"])
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "broken")
    for folder in (tmp_path / "broken").glob("checkpoints/step-00000006/*"):
        folder.write_bytes(b"")
    train(recipe, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken", 6)


def test_a_vae_resumes_to_the_bit_too(tmp_path):
    recipe = load_recipe("smoke_world_vae", ["samples.every_steps=0", "checkpoint.every_steps=2"])
    train(recipe, tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "step-00000002"
    train(recipe, tmp_path / "again", resume=half)
    assert metrics(tmp_path / "again") == metrics(tmp_path / "whole")[2:]
    one, two = weights(tmp_path / "whole", 4), weights(tmp_path / "again", 4)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_kills_at_random_moments_leave_the_curve_of_a_run_that_was_left_alone(tmp_path):
    steps = 20 + 20 * KILLS
    changes = [f"steps={steps}", "checkpoint.every_steps=2"]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    code = (
        "import sys; from statefilm.training import Trainer, load_recipe;"
        "Trainer(load_recipe('smoke_world_t2i', sys.argv[2:]), sys.argv[1], device='cpu').fit()"
    )
    recipe = tiny_recipe(*changes)
    arguments = [sys.executable, "-c", code, str(broken), *TINY, *changes]
    moments = random.Random(0)
    for _ in range(KILLS):
        before = set(broken.glob("checkpoints/step-*"))
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        while process.poll() is None and set(broken.glob("checkpoints/step-*")) <= before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    train(recipe, broken)
    train(recipe, whole)
    assert_same_run(broken, whole, steps)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_first_too(number, tmp_path):
    changes = ["steps=100000", "checkpoint.every_steps=0", "workers=1"]
    code = (
        "import sys; from statefilm.training import Trainer, load_recipe;"
        "Trainer(load_recipe('smoke_world_t2i', sys.argv[2:]), sys.argv[1], device='cpu').fit()"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), *TINY, *changes]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, start_new_session=True)
    while not (tmp_path / "logs" / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as torchrun, Slurm and terminals do
    _, told = process.communicate(timeout=120)
    assert b"the state is saved" in told
    (folder,) = (tmp_path / "checkpoints").iterdir()
    assert int(folder.name.removeprefix("step-")) == metrics(tmp_path)[-1]["step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_and_the_run_goes_on_from_there(number, tmp_path):
    recipe = tiny_recipe("steps=100000", "checkpoint.every_steps=0")

    def send():
        while not (tmp_path / "logs" / "metrics.jsonl").exists():
            time.sleep(0.01)
        for _ in range(2):  # as a terminal and a launcher that hands signals on do
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    threading.Thread(target=send).start()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="the state is saved"):
        train(recipe, tmp_path)
    assert signal.getsignal(number) is before
    done = metrics(tmp_path)[-1]["step"]
    assert 1 <= done < 100000
    assert (tmp_path / "pipeline" / "model_index.json").is_file()
    train(tiny_recipe(f"steps={done + 1}"), tmp_path)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, done + 2))


def test_time_ends_a_run_and_may_lead_the_learning_rate(tmp_path):
    recipe = tiny_recipe(
        "steps=100000", "max_minutes=0.03", "optimizer.schedule_by=time", "optimizer.warmup_steps=0"
    )
    started = time.monotonic()
    train(recipe, tmp_path)
    assert time.monotonic() - started < 15
    lines = metrics(tmp_path)
    assert lines[-1]["step"] < 100000
    assert lines[-1]["lr"] < 0.3 * lines[0]["lr"]
    assert HTHPipeline.from_pretrained(tmp_path / "pipeline")


def test_a_finished_run_is_left_as_it_is(tmp_path):
    recipe = tiny_recipe("steps=1")
    train(recipe, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    assert train(recipe, tmp_path) == tmp_path / "pipeline"
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")}
    with pytest.raises(FileExistsError):
        train(recipe, tmp_path, resume="none")


class Faulty(Trainer):
    """Multiplies the loss of chosen steps by infinity."""

    bad = ()

    def _build(self, vocabulary=None):
        super()._build(vocabulary)
        loss = self.task.loss
        self.task.loss = lambda batch: (
            loss(batch) * (float("inf") if self.counters.step in self.bad else 1)
        )


def test_a_step_that_is_not_finite_is_skipped(tmp_path, capsys):
    trainer = Faulty(tiny_recipe("steps=4"), tmp_path, device="cpu")
    trainer.bad = (1,)
    trainer.fit()
    assert "step 2 skipped: not finite" in capsys.readouterr().err
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 3, 4]
    assert lines[-1]["skipped"] == 1
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path, 4).values())


def test_a_step_that_is_skipped_again_after_a_kill_is_noted_once(tmp_path):
    recipe = tiny_recipe("steps=5", "checkpoint.every_steps=2")
    for _ in range(2):
        trainer = Faulty(recipe, tmp_path, device="cpu", quiet=True)
        trainer.bad = (0, 4)
        trainer.fit()
        for file in (tmp_path / "checkpoints" / "step-00000005").iterdir():
            file.write_bytes(b"")  # as if it was killed before it was saved
    rows = (tmp_path / "logs" / "skipped.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 5]
    assert [line["step"] for line in metrics(tmp_path)] == [2, 3, 4]


def test_too_many_such_steps_stop_the_run_and_name_the_step(tmp_path):
    recipe = tiny_recipe("steps=10", "max_skipped_steps=1", "checkpoint.every_steps=1")
    trainer = Faulty(recipe, tmp_path, device="cpu", quiet=True)
    trainer.bad = (3, 4)
    with pytest.raises(FloatingPointError, match="step 5: not finite") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)
    train(tiny_recipe("steps=6"), tmp_path)
    assert metrics(tmp_path)[-1]["step"] == 6


def test_the_loss_falls_and_bfloat16_stays_close(tmp_path):
    changes = ["steps=40", "objective.caption_dropout=0", "optimizer.lr=0.02", "log.every_steps=10"]
    curves = []
    for precision in ("float32", "bfloat16"):
        train(tiny_recipe(*changes, f"precision={precision}"), tmp_path / precision)
        curves.append([line["loss"] for line in metrics(tmp_path / precision)])
    assert curves[0][-1] < 0.7 * curves[0][0]
    assert curves[1] == pytest.approx(curves[0], rel=0.1)


def test_a_latent_model_trains_on_a_vae_and_a_noise_prediction(smoke_runs, tmp_path):
    vae_recipe = load_recipe("smoke_world_vae", ["steps=1", "samples.every_steps=0"])
    train(vae_recipe, tmp_path / "vae_run")
    for kind in ("epsilon", "v_prediction"):
        recipe = tiny_recipe(
            "steps=1",
            f"vae={tmp_path / 'vae_run'}",
            f"objective.type={kind}",
            "model.overrides.in_channels=4",
            "model.overrides.patch_size=[1, 2, 2]",
            "model.overrides.head_target=velocity",
        )
        pipe = HTHPipeline.from_pretrained(train(recipe, tmp_path / kind))
        assert pipe.vae is not None
        assert pipe.scheduler.config.prediction_type == kind
    recipe = tiny_recipe(f"vae={tmp_path / 'vae_run'}")
    says = r"takes 3 channels, latents of the VAE have 4: model\.overrides\.in_channels=4 fits"
    with pytest.raises(UsageError, match=says):
        train(recipe, tmp_path / "pixels")


def test_a_frozen_text_encoder_stays_as_it_was(smoke_runs, tmp_path):
    source = smoke_runs / "runs" / "smoke_world_t2i"
    recipe = load_recipe(
        "smoke_world_t2v",
        ["steps=1", "samples.every_steps=0", "text.train=false"]
        + [f"{part}.init_from={source}" for part in ("model", "text")],
    )
    saved = train(recipe, tmp_path)
    file = "text_encoder/model.safetensors"
    before, after = load_file(source / "pipeline" / file), load_file(saved / file)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("text_encoder" in name for name in weights(tmp_path, 1))


def test_gradient_checkpointing_changes_nothing_and_compiling_keeps_the_names(tmp_path):
    train(tiny_recipe("steps=2"), tmp_path / "plain")
    train(tiny_recipe("steps=2", "gradient_checkpointing=true"), tmp_path / "checkpointed")
    lines = zip(metrics(tmp_path / "plain"), metrics(tmp_path / "checkpointed"), strict=True)
    assert all(plain == pytest.approx(checkpointed) for plain, checkpointed in lines)
    compiled = Trainer(tiny_recipe("compile=blocks"), tmp_path, device="cpu")
    compiled._build()
    names = {f"model/{name}" for name, _ in compiled.task.modules.named_parameters()}
    assert names == {n for n in weights(tmp_path / "plain", 2) if n.startswith("model/")}
    assert all(b._compiled_call_impl is not None for b in compiled.task.transformer.blocks)


def test_compiling_without_a_compiler_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="found none: compile=none trains without"):
        train(tiny_recipe("compile=blocks"), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.0.world.size=36"], r"data\.0\.world\.size 36 is not a multiple of 8"),
        (["data.0.world.num_frames=4"], r"data\.0\.world\.num_frames 4 is not 1 \+ k"),
        (["text.overrides.d_model=16"], "text of width 32, the encoder has 16"),
        (["objective.type=epsilon"], "needs a model with head_target 'velocity'"),
        (["model.overrides.in_channels=4"], "takes 4 channels, pixels have 3"),
        (["model.overrides.dims=4"], "unknown model field 'dims'"),
        (["samples.num_frames=6"], "samples.num_frames 6 is not 1 \\+ k"),
    ],
)
def test_recipes_whose_parts_do_not_fit_are_refused_before_anything_is_written(
    changes, words, tmp_path
):
    with pytest.raises(ValueError, match=words) as caught:
        train(tiny_recipe(*changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_changes_of_a_recipe_are_told_on_resume(tmp_path, capsys):
    Trainer(tiny_recipe("steps=1"), tmp_path, device="cpu").fit()
    capsys.readouterr()
    Trainer(tiny_recipe("steps=2", "optimizer.lr=0.5"), tmp_path, device="cpu").fit()
    told = capsys.readouterr().err
    assert "optimizer.lr was 0.01, is 0.5" in told
    assert "resuming at step 1" in told


def test_an_image_model_gets_new_temporal_blocks_once(smoke_runs, tmp_path):
    source = smoke_runs / "runs" / "smoke_world_t2i"
    sources = [f"{part}.init_from={source}" for part in ("model", "text")]
    changes = [*sources, "steps=1", "model.plan={temporal_fraction: 0.0, added: 2}"]
    saved = train(load_recipe("smoke_world_t2v", changes), tmp_path / "grown")
    plan = HTHPipeline.from_pretrained(saved).transformer.config.plan
    before = HTHPipeline.from_pretrained(source / "pipeline").transformer.config.plan
    assert len(plan) == len(before) + 2
    assert [one["video_scan"] for one in plan if one["video_scan"] in ("TH", "TV")] == ["TH", "TV"]
    again = [f"{part}.init_from={tmp_path / 'grown'}" for part in ("model", "text")]
    recipe = load_recipe("smoke_world_t2v", [*again, "steps=1", "model.plan={added: 1}"])
    with pytest.raises(UsageError, match=r"model\.plan\.added 1 is for image models"):
        train(recipe, tmp_path / "more")

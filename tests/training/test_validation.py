"""Validation: the same held-out numbers every time, and the best model kept."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from statefilm import HTHPipeline
from statefilm.models.vae import load_vae
from statefilm.training import Trainer, load_recipe
from statefilm.training.logs import Logs
from statefilm.training.parallel import Ranks
from statefilm.training.tasks import build_task

from .conftest import assert_same_run, metrics, tiny_recipe, train, weights

CPU = torch.device("cpu")
HELD_OUT = "validation={data: {world: {size: 32, split: heldout}, batch_size: 2}, batches: 2, "
EACH, SECOND = HELD_OUT + "every_steps: 1}", HELD_OUT + "every_steps: 2}"
BEST = "checkpoint={keep_best: true, keep_last: 1, every_steps: 1}"


def course(folder):
    """Step to validation loss."""
    return {line["step"]: line["validation"] for line in metrics(folder) if "validation" in line}


def steps(folder):
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").iterdir())


def held_out_loss(recipe, folder, step):
    """The validation loss of the averaged weights in a checkpoint."""
    task = build_task(recipe, CPU, Ranks())
    average = load_file(folder / "checkpoints" / f"step-{step:08d}" / "ema.safetensors")
    for name, parameter in task.modules.named_parameters():
        parameter.detach().copy_(average[name])
    with task.evaluation():
        batches = [task.held_out[number] for number in range(recipe.validation.batches)]
        return float(torch.stack([task.validation_loss(batch) for batch in batches]).mean())


def test_the_loss_is_that_of_averaged_weights_on_what_is_held_out(tmp_path):
    recipe = tiny_recipe(SECOND)
    train(recipe, tmp_path)
    assert list(course(tmp_path)) == [2, 4]
    assert course(tmp_path)[4] == held_out_loss(recipe, tmp_path, 4)


def test_held_out_samples_and_noise_depend_on_the_seed_alone():
    first, other, third = (
        build_task(tiny_recipe(EACH, *changes), CPU, Ranks()).held_out[1]
        for changes in ((), ("data.0.batch_size=8", "steps=9"), ("seed=1",))
    )
    for name in ("frames", "noise", "level"):
        assert torch.equal(getattr(first, name), getattr(other, name))
        assert not torch.equal(getattr(first, name), getattr(third, name))
    task = build_task(tiny_recipe(EACH), CPU, Ranks())
    trained = task.batches[1]
    assert not torch.equal(task.held_out[1].noise, trained.noise[:2])
    assert not torch.equal(task.held_out[1].frames, trained.frames[:2])


def test_looking_changes_nothing(tmp_path):
    train(tiny_recipe(), tmp_path / "blind")
    train(tiny_recipe(EACH, BEST), tmp_path / "seeing")
    seeing = [line for line in metrics(tmp_path / "seeing") if "loss" in line]
    assert seeing == metrics(tmp_path / "blind")
    one, two = weights(tmp_path / "blind", 4), weights(tmp_path / "seeing", 4)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def worsening(tmp_path):
    """A run whose first steps are its best: its rate grows until it tears the weights apart."""
    recipe = tiny_recipe(
        *(EACH, BEST, "steps=6", "optimizer={name: adamw, lr: 3, warmup_steps: 6}"),
        *("ema.decay=0.1", "optimizer.schedule=constant"),
    )
    train(recipe, tmp_path / "run")
    return recipe, tmp_path / "run"


def test_the_best_is_kept_beside_the_last_and_is_a_model(worsening):
    recipe, run = worsening
    losses = course(run)
    best = min(losses, key=losses.get)
    assert best < 6 and steps(run) == [best, 6]
    assert losses[best] == held_out_loss(recipe, run, best)
    saved = load_file(run / "best" / "transformer" / "diffusion_pytorch_model.safetensors")
    average = load_file(run / "checkpoints" / f"step-{best:08d}" / "ema.safetensors")
    assert all(torch.equal(average[f"transformer.{name}"], saved[name]) for name in saved)
    pipe = HTHPipeline.from_pretrained(run / "best")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red circle", num_inference_steps=1).images[0].size == (32, 32)


def test_a_run_that_goes_on_remembers_the_best(worsening, tmp_path):
    recipe, run = worsening
    shutil.copytree(run, tmp_path / "again")
    best = steps(run)[0]
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "step-00000006")
    train(recipe, tmp_path / "again")
    assert_same_run(run, tmp_path / "again", 6)
    assert steps(tmp_path / "again") == [best, 6]
    # In another folder the best of before is not there, and what follows is compared anew.
    train(recipe, tmp_path / "elsewhere", run / "checkpoints" / f"step-{best:08d}")
    losses = course(tmp_path / "elsewhere")
    assert steps(tmp_path / "elsewhere") == sorted({min(losses, key=losses.get), 6})
    assert (tmp_path / "elsewhere" / "best" / "model_index.json").is_file()


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path):
    trainer = Trainer(tiny_recipe(EACH, BEST, "steps=2"), tmp_path, device="cpu", quiet=True)
    trainer._build()
    for parameter in trainer.task.modules.parameters():
        parameter.detach().fill_(float("nan"))
    trainer.average.update()
    trainer.counters.step = 1
    trainer.logs = Logs(tmp_path, 0, 2, quiet=True)
    with trainer.logs:
        assert not trainer._validate() and trainer.counters.best is None
    assert math.isnan(course(tmp_path)[1])


def test_a_vae_is_validated_without_its_adversary(tmp_path):
    held_out = (
        "validation={data: {world: {size: 32, num_frames: 3}, batch_size: 1}, every_steps: 4}"
    )
    recipe = load_recipe(
        "smoke_world_vae", ["samples.every_steps=0", held_out, "checkpoint.keep_best=true"]
    )
    train(recipe, tmp_path)
    assert course(tmp_path)[4] == held_out_loss(recipe, tmp_path, 4)
    assert load_vae(tmp_path / "best").config.latent_channels == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["checkpoint.keep_best=true"], "checkpoint.keep_best needs validation"),
        (["validation={batches: 2}"], "key 'validation.data' is missing"),
        ([EACH, "validation.every_steps=0"], "validation.every_steps = 0"),
        ([EACH, "validation.batchs=2"], "did you mean 'validation.batches'"),
    ],
)
def test_sections_that_do_not_fit_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        tiny_recipe(*changes)


def test_held_out_data_of_a_wrong_size_are_named():
    recipe = tiny_recipe(EACH, "validation.data.world.size=36")
    with pytest.raises(
        ValueError, match=r"validation\.data\.world\.size 36 is not a multiple of 8"
    ):
        build_task(recipe, CPU, Ranks())

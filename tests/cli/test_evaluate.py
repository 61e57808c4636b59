"""`statefilm eval vae` and `eval clips`: tables, results, and models that do not fit."""

import json

import pytest
import torch

from statefilm import TemporalSSMUNet, VideoDiffusionPipeline
from statefilm.data.worlds import WORLDS
from statefilm.models.vae import build_vae
from statefilm.pipelines import ddpm_scheduler


@pytest.fixture
def run_folder(tmp_path):
    """A training run of a VAE that has learnt nothing."""
    torch.manual_seed(0)
    vae = build_vae("world_vae", block_out_channels=(8, 8), norm_num_groups=4, latent_channels=2)
    vae.save_pretrained(tmp_path / "run" / "vae")
    return tmp_path / "run"


def test_eval_vae_prints_a_table_and_writes_results(cli, run_folder, tmp_path):
    args = ("eval", "vae", "-m", run_folder, "--scenes", 6, "--clips", 2, "--num-frames", 3)
    args += ("--size", 32, "--output", "scores")
    outcome = cli(*args)
    assert outcome.code == 0, outcome.err
    assert "scene.shape" in outcome.out and "dB (clips)" in outcome.out
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["metrics"]["scene"]["n"] == 6 and results["oracle"]["scene.count"] == 1
    assert results["details"]["run"]["size"] == 32
    assert (tmp_path / "scores" / "scene.wrong.png").is_file()
    assert cli(*args).code == 2  # results are not overwritten


def test_eval_vae_names_what_does_not_fit(cli, run_folder, tmp_path):
    for args, says in (
        (("-m", tmp_path / "nowhere"), "VAE folder without config.json"),
        (("-m", run_folder, "--scenes", 1, "--size", 33), "height 33 is not a multiple of 2"),
    ):
        outcome = cli("eval", "vae", *args)
        assert outcome.code == 2 and says in outcome.err


@pytest.fixture
def balls(tmp_path):
    """A video U-Net of the classes of balls that has learnt nothing."""
    torch.manual_seed(0)
    names = WORLDS["balls"].class_names
    model = TemporalSSMUNet(
        dim=8, multipliers=(1, 2), groups=4, spatial_heads=2, patch_size=4, num_classes=len(names)
    )
    sizes = {"default_height": 32, "default_width": 32, "default_num_frames": 3}
    pipe = VideoDiffusionPipeline(model, ddpm_scheduler(2), class_names=names, **sizes)
    pipe.save_pretrained(tmp_path / "balls")
    return tmp_path / "balls"


def test_eval_clips_prints_a_table_and_writes_results(cli, balls, tmp_path):
    args = ("eval", "clips", "-m", balls, "--clips", 16, "--steps", 2, "--output", "scores")
    outcome = cli(*args)
    assert outcome.code == 0, outcome.err
    for name in ("fvd_rand128", "class", "colors"):
        assert name in outcome.out
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["metrics"]["class"]["n"] == 16 and results["oracle"]["class"] == 1
    assert results["details"]["run"]["world"] == "balls"
    assert cli(*args).code == 2  # results are not overwritten
    maze = json.loads(cli(*args[:-2], "--world", "maze", "--json").out)
    assert "class" not in maze["metrics"] and "walls" in maze["metrics"]


def test_eval_clips_names_what_does_not_fit(cli, balls, unet, model):
    for args, says in (
        (("-m", unet("none")), "does not say which world it knows"),
        (("-m", unet("none"), "--world", "bals"), "did you mean 'balls'"),
        (("-m", unet("none"), "--world", "balls"), "size 8 is outside 32 to 256 pixels"),
        (("-m", unet("text")), "reads text"),
        (("-m", model), "a VideoDiffusionPipeline is needed here"),
        (("-m", balls, "--clips", 2), "--clips"),
        (("-m", balls, "--steps", 3), "num_inference_steps 3 is more than the 2"),
    ):
        outcome = cli("eval", "clips", *args)
        assert outcome.code == 2 and says in outcome.err, outcome.err


@pytest.mark.parametrize("name", ["results.json", "index.html", "colors.worst.png"])
def test_eval_world_overwrites_nothing(refused, tmp_path, name):
    (tmp_path / name).write_text("precious")
    refusal = refused("eval", "world", "--tasks", "colors", "--no-video", "-o", ".")
    assert f"{name} exists" in refusal
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]

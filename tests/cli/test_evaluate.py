"""`statefilm eval vae`: a table, results, and folders that hold no VAE."""

import json

import pytest
import torch

from statefilm.models.vae import build_vae


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

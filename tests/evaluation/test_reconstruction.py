"""The gate of VAEs: perfect ones pass, blind ones do not, and PSNR is the known formula."""

import pytest
import torch
from torch import nn

from statefilm.errors import UsageError
from statefilm.evaluation.world import evaluate_vae
from statefilm.evaluation.world.reconstruction import psnr
from statefilm.models.vae import build_vae


@pytest.fixture(scope="module")
def blind():
    """A VAE that has learnt nothing: all that it shows is grey."""
    torch.manual_seed(0)
    vae = build_vae("world_vae", block_out_channels=(8, 8), norm_num_groups=4).eval()
    nn.init.zeros_(vae.decoder.conv_out.weight)
    nn.init.zeros_(vae.decoder.conv_out.bias)
    return vae


def test_a_perfect_copy_reads_as_the_truth_does():
    results = evaluate_vae(None, scenes=24, clips=3, num_frames=3, size=32)
    assert {name: metric.value for name, metric in results.metrics.items()} == results.oracle
    assert results.metrics["scene.count"].value == 1
    assert results.metrics["scene"].floor < 0.5
    assert results.details["psnr"]["scenes"] > 90 and results.details["psnr"]["clips"] > 90
    assert results.metrics["clip"].n == 3 and results.metrics["scene"].n == 24


def test_a_blind_vae_fails_and_its_worst_scenes_are_kept(blind):
    seen = []
    results = evaluate_vae(
        blind,
        scenes=10,
        clips=2,
        num_frames=3,
        size=32,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert results.metrics["scene"].value == results.metrics["clip"].value == 0
    assert results.oracle["scene.count"] == 1
    assert 0 < results.details["psnr"]["scenes"] < 30
    assert len(results.samples["scene.wrong"]) == 8
    assert results.samples["scene.wrong"][0].image.shape == (3, 32, 64)
    assert seen == [(4, 12), (8, 12), (10, 12), (12, 12)]


def test_psnr_of_a_known_error():
    truth = torch.zeros(2, 3, 1, 4, 4)
    frames = torch.stack([truth[0] + 0.2, truth[1] + 0.02])
    torch.testing.assert_close(psnr(frames, truth), torch.tensor([20.0, 40.0]))


def test_what_cannot_be_scored_is_refused(blind):
    with pytest.raises(UsageError, match="at least one scene"):
        evaluate_vae(blind, scenes=0)
    with pytest.raises(UsageError, match="height 33 is not a multiple of 2"):
        evaluate_vae(blind, scenes=1, clips=0, size=33)

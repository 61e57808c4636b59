"""The patch discriminator: sizes, samples that stay apart, and what a patch sees."""

import pytest
import torch

from statefilm.models.discriminator import PatchDiscriminator


def toy():
    torch.manual_seed(0)
    return PatchDiscriminator(channels=16, layers=2)


@pytest.mark.parametrize(("frames", "moments"), [(1, 1), (5, 2), (9, 3)])
@torch.no_grad()
def test_images_and_clips_have_a_verdict_for_each_patch(frames, moments):
    assert toy()(torch.zeros(2, 3, frames, 32, 32)).shape == (2, 1, moments, 6, 6)


@torch.no_grad()
def test_a_verdict_does_not_depend_on_the_other_samples():
    model, clips = toy(), torch.randn(3, 3, 5, 32, 32)
    torch.testing.assert_close(model(clips)[1:2], model(clips[1:2]), atol=1e-5, rtol=1e-4)


def test_time_counts_within_a_clip():
    model, clip = toy(), torch.randn(1, 3, 5, 32, 32)
    assert (model(clip) - model(clip.flip(2)).flip(2)).abs().max() > 1e-3


def test_width_doubles_up_to_eight_times():
    widths = [
        part.out_channels
        for part in PatchDiscriminator(channels=16, layers=5).layers
        if isinstance(part, torch.nn.Conv3d)
    ]
    assert widths == [16, 32, 64, 128, 128, 128, 1]

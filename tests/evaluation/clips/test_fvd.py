"""FVD-rand128: the distance is exact, the network fixed, and what looks worse lies further."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statefilm.data.worlds import WORLDS
from statefilm.errors import UsageError
from statefilm.evaluation.clips import clip_features, frechet_distance, fvd_rand128
from statefilm.evaluation.clips.network import CLIPS_AT_ONCE

N = 16


def features(seed, count=40, dims=6):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture(scope="module")
def real():
    return WORLDS["maze"].sample_batch(0, 0, 2 * N, size=32, num_frames=8).frames


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0.1, 10), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_the_distance_is_symmetric_and_scales(first, second, scale, dims):
    a, b = features(first, 12, dims), features(second + 10_001, 15, dims) * 2 + 1
    one = frechet_distance(a, b)
    assert one == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(scale * a, scale * b) == pytest.approx(scale**2 * one, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_the_distance_of_known_gaussians():
    a = features(0, 500, 4)
    a = a - a.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(a.T))
    white = a @ vectors * values.rsqrt()  # covariance one, mean zero
    scales, shift = torch.tensor([1.0, 2.0, 3.0, 0.5]), torch.tensor([1.0, 0.0, -2.0, 0.0])
    expected = float(shift.square().sum() + (scales - 1).square().sum())
    assert frechet_distance(white, white * scales + shift) == pytest.approx(expected, rel=1e-9)


def test_fewer_samples_than_features_are_no_trouble():
    a, b = features(1, 5, 128), features(2, 5, 128)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) > 1


def test_features_are_fixed_and_of_each_clip_alone(real):
    found = clip_features(real[: CLIPS_AT_ONCE + 1])
    assert found.shape == (CLIPS_AT_ONCE + 1, 128) and found.dtype == torch.float64
    torch.testing.assert_close(clip_features(real[2:3])[0], found[2], rtol=1e-5, atol=1e-6)
    ramp = torch.linspace(-1, 1, 3 * 2 * 4 * 4).view(1, 3, 2, 4, 4)
    values = clip_features(ramp)[0]
    found = [float(values[0]), float(values.sum())]
    assert found == pytest.approx([0.019952334, RAMP_SUM], rel=1e-5)


def test_what_looks_worse_lies_further(real):
    others = WORLDS["maze"].sample_batch(1, 0, N, size=32, num_frames=8).frames
    noise = torch.randn(others.shape, generator=torch.Generator().manual_seed(0))
    frozen = others[:, :, :1].expand_as(others)
    same, *worse = (
        fvd_rand128(clips, real) for clips in (others, frozen, others + 0.5 * noise, noise)
    )
    assert (same.n, same.features) == (N, 128)
    for one in (same, *worse):
        assert 0 <= one.low < one.value < one.high and one.floor == same.floor
        assert one is same or one.value > max(same.value, same.floor)
    assert worse[2].low > 10 * max(same.high, same.floor)
    assert same.value < 2 * same.floor


def test_bad_input_is_named(real):
    for call, message in (
        (lambda: fvd_rand128(real[:4], real[:8]), "4 generated clips are too few"),
        (lambda: fvd_rand128(real[:N], real[:N]), "16 real clips: valid are 32"),
        (lambda: fvd_rand128(real[:N, :, :4], real), "give one size"),
        (lambda: clip_features(real[:, :1]), r"valid are floating point numbers \[N, 3"),
        (lambda: clip_features(real[:1] * torch.nan), "not finite"),
        (lambda: frechet_distance(torch.ones(1, 3), torch.ones(2, 3)), "2 rows or more"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


RAMP_SUM = 3.09776695

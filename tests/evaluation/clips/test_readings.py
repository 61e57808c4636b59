"""Readings of clips: real ones keep their world's laws, and what breaks them is seen."""

import pytest
import torch

from statefilm.data.worlds import WORLDS
from statefilm.errors import UsageError
from statefilm.evaluation.clips import read_clips, shuffled_frames


@pytest.fixture(scope="module")
def balls():
    return WORLDS["balls"].sample_batch(0, 0, 6, size=32, num_frames=16).frames


def test_real_clips_keep_the_laws_and_shuffled_ones_do_not(balls):
    found = read_clips("balls", balls, shuffled_frames(balls))
    assert set(found) == {"count", "colors", "moving", "straight", "collisions"}
    for name in ("count", "straight"):
        assert found[name].value > 0.9 and found[name].n == 6
        assert found[name].low < found[name].value <= found[name].high <= 1
    assert found["count"].floor == pytest.approx(found["count"].value)
    assert found["straight"].floor < 0.5


def test_noise_shows_nothing(balls):
    noise = torch.randn(balls.shape, generator=torch.Generator().manual_seed(0))
    found = read_clips("balls", noise)
    assert all(one.value == 0 and one.low == 0 < one.high for one in found.values())


def test_a_figure_without_anything_to_judge_by_tells_nothing():
    still = WORLDS["maze"].sample_batch(0, 0, 2, size=32, num_frames=2).frames
    walls = read_clips("maze", still)["walls"]
    assert (walls.value, walls.low, walls.high, walls.n) == (0, 0, 1, 0)


def test_shuffling_keeps_the_frames_and_is_a_function_of_the_seed(balls):
    once = shuffled_frames(balls, 3)
    torch.testing.assert_close(once, shuffled_frames(balls, 3), rtol=0, atol=0)
    assert not torch.equal(once, balls)
    torch.testing.assert_close(once.sum(2), balls.sum(2))


def test_an_unknown_world_is_named(balls):
    with pytest.raises(UsageError, match="did you mean 'balls'"):
        read_clips("bals", balls)

"""Seams at the borders of tokens: none in rendered truth, found where tokens differ."""

import pytest
import torch

from statefilm.data.world.tasks import load_prompts
from statefilm.evaluation.world import oracle
from statefilm.evaluation.world.seams import mean_seams, seams


def test_truth_has_no_seams():
    prompts = [prompt["prompt"] for prompt in load_prompts("t2i")[:128]]
    images = oracle(prompts, range(128), size=64)[:, :, 0]
    metric = mean_seams(images.split(50), (4, 4))
    assert metric.n == 128 and metric.low < 0 < metric.high
    assert metric.high - metric.low < 0.3


def test_a_step_at_every_border_is_measured():
    board = torch.zeros(1, 1, 8, 8)
    board[..., 4:, :4] = board[..., :4, 4:] = 0.5  # a checkerboard of 4 x 4 pixels
    assert seams(board, (4, 4)).tolist() == [63.75]
    assert seams(board, (8, 4)).tolist() == [63.75]
    assert seams(board, (2, 2)).item() == pytest.approx(63.75 / 3)
    assert seams(board.roll(1, -1), (8, 4)).tolist() == [-31.875]


@pytest.mark.parametrize("patch", [(1, 4), (4, 3), (8, 8)])
def test_patches_without_an_inside_or_that_do_not_fit_are_refused(patch):
    with pytest.raises(ValueError, match="valid are 2 or more that divide 8 x 8"):
        seams(torch.zeros(1, 3, 8, 8), patch)

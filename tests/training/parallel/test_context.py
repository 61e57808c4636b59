"""Context parallelism: which parts of the tokens lie where, and what cannot be split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from statefilm.models import build
from statefilm.training.parallel.collectives import part_sizes
from statefilm.training.parallel.context import check_split, split_problem

HYDRA = {"state_dim": 8, "head_dim": 16}


def denoiser(*mixers, hydra=HYDRA, **fields):
    """A denoiser of width 48 whose blocks have these mixers: 6 heads in Hydra, 3 in attention."""
    plan = [{"mixer": mixer, "image_scan": "H", "video_scan": "H"} for mixer in mixers]
    with torch.device("meta"):
        model = build(
            "hth_tiny", plan=plan, dim=48, head_dim=16, mixer_options={"hydra": hydra}, **fields
        )
    return nn.ModuleDict({"transformer": model})


@given(length=st.integers(0, 10**6), parts=st.integers(1, 1000))
def test_parts_are_the_whole_and_as_even_as_can_be(length, parts):
    sizes = part_sizes(length, parts)
    assert sum(sizes) == length and len(sizes) == parts
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] == (length % parts > 0)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_any_number_of_tokens_can_be_split_that_gives_each_process_one(size):
    modules = denoiser("hydra")
    for length in (size, size + 1, 30_525):
        check_split(modules, {"data.0": length}, size)
    with pytest.raises(ValueError, match=rf"context {size}: .* data\.1 may have only 1: at most 1"):
        check_split(modules, {"data.0": 30_525, "data.1": 1}, size)


@pytest.mark.parametrize(
    ("modules", "size", "problem"),
    [
        (denoiser("hydra"), 4, "divide the 6 heads of HydraMixer: valid are 1, 2, 3, 6"),
        (denoiser("hydra", "attention"), 6, "divide the 3 heads of SelfAttentionMixer.* are 1, 3"),
        (denoiser("s6", "s4d"), 32, r"divide the 48 heads of S4DMixer: .* 1, 2, 3, 4, 6, 8, 12"),
        (
            denoiser("hydra", hydra={**HYDRA, "groups": 3}),
            2,
            "divide the 6 heads in 3 groups of HydraMixer: valid are 1, 3, 6",
        ),
        (denoiser("temporal_attention"), 2, "TemporalAttentionMixer cannot split .* HydraMixer"),
        (nn.ModuleDict({"unet": nn.Linear(2, 2)}), 2, "only a run of kind denoiser"),
    ],
)
def test_what_cannot_be_split_is_one_line_that_says_what_can(modules, size, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        check_split(modules, {}, size)
    assert "\n" not in str(caught.value)
    if "heads" in problem:
        assert split_problem(modules, {}, 3) is None

"""Bytes kept for the backward: those of a real run, with growth and crossings read from them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from statefilm.experiments.temporal.arms import ARMS
from statefilm.experiments.temporal.saved import counter, crossing, growth, saved_bytes
from statefilm.experiments.temporal.subjects import OneLayer, WholeUNet

CPU = torch.device("cpu")
LAYER = OneLayer(dim=16, side=2)


def test_a_linear_layer_keeps_its_input_once():
    layer, x = nn.Linear(3, 5), torch.randn(7, 3)
    assert saved_bytes(layer, lambda: layer(x)) == x.nbytes
    assert saved_bytes(layer, lambda: layer(x) + layer(x)) == x.nbytes
    with torch.no_grad():
        assert saved_bytes(layer, lambda: layer(x)) == 0


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("frames", [1, 7, 130])
def test_counts_are_those_of_a_real_run(name, frames):
    module, inputs = LAYER.build(ARMS[name], CPU), LAYER.inputs(frames, CPU)
    real = saved_bytes(module, lambda: LAYER.forward(module, inputs))
    assert counter(LAYER, ARMS[name], CPU)(frames) == real > 0


def test_counts_of_a_whole_unet_are_those_of_a_real_run():
    subject, arm = WholeUNet(side=4, multipliers=(1, 2)), ARMS["s6-bi"]
    module, inputs = subject.build(arm, CPU), subject.inputs(3, CPU)
    real = saved_bytes(module, lambda: subject.forward(module, inputs))
    assert counter(subject, arm, CPU)(3) == real
    assert len(subject.widths) == 6


@pytest.mark.parametrize("name", ["s6-bi", "hydra"])
def test_state_spaces_grow_linearly_and_attention_does_not(name):
    assert growth(counter(LAYER, ARMS[name], CPU), 64, 1024) < 0.05
    assert growth(counter(LAYER, ARMS["attention"], CPU), 64, 1024) > 0.5


@given(st.integers(0, 400), st.integers(1, 60), st.integers(1, 9))
def test_the_crossing_is_the_first_of_those_that_keep_more(offset, slope, curve):
    def quadratic(frames):
        return curve * frames * frames

    def linear(frames):
        return offset + slope * frames

    found = crossing(quadratic, linear, 1 << 14)
    assert quadratic(found) > linear(found)
    assert found == 1 or quadratic(found - 1) <= linear(found - 1)
    assert growth(linear, 8, 64) == pytest.approx(offset * 7 / (offset + 64 * slope))


def test_without_a_crossing_there_is_none():
    assert crossing(lambda frames: frames, lambda frames: 2 * frames, 100) is None
    assert crossing(lambda frames: 2 * frames, lambda frames: frames, 100) == 1

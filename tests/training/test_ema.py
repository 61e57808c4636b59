"""The moving average: its arithmetic, and that applying it leaves the weights as they were."""

import pytest
import torch
from torch import nn

from statefilm.training.ema import MovingAverage
from statefilm.training.recipe import EMA


def test_it_averages_with_a_decay_that_grows_to_its_limit():
    weight = nn.Parameter(torch.zeros(3))
    average = MovingAverage({"w": weight}, EMA(decay=0.6, warmup=10))
    expected = 0.0
    for update in range(1, 30):
        weight.data.fill_(update)
        average.update()
        decay = min(0.6, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
        assert average.tensors()["w"].tolist() == pytest.approx([expected] * 3)


def test_it_stays_float32_beside_narrow_weights():
    weight = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    average = MovingAverage({"w": weight}, EMA(decay=0.999, warmup=1))
    weight.data.fill_(2)
    for _ in range(3):
        average.update()
    assert average.tensors()["w"].dtype == torch.float32
    assert 1 < float(average.tensors()["w"][0]) < 2


def test_applying_exchanges_and_gives_back_even_after_an_error():
    layer = nn.Linear(4, 4)
    average = MovingAverage(dict(layer.named_parameters()), EMA())
    started = layer.weight.detach().clone()
    layer.weight.data.add_(1)
    trained = layer.weight.detach().clone()

    def fail_with_averages():
        with average.applied():
            assert torch.equal(layer.weight, started)
            raise KeyError

    with pytest.raises(KeyError):
        fail_with_averages()
    assert torch.equal(layer.weight, trained)
    assert torch.equal(average.tensors()["weight"], started)

"""Peak memory of a call on a CPU."""

import torch

from statefilm.evaluation.speed.memory import peak_bytes
from statefilm.ops import quasiseparable

CPU = torch.device("cpu")


def test_the_peak_is_what_was_held_at_once():
    def run():
        for _ in range(3):
            torch.empty(2**20, dtype=torch.uint8).zero_()

    assert 2**20 <= peak_bytes(run, CPU) < 1.5 * 2**20


def test_memory_kept_from_an_earlier_call_is_counted():
    x, dt, B, C = (
        torch.rand(shape)
        for shape in ((1, 512, 2, 16), (1, 512, 2, 2), (1, 512, 2, 1, 16), (1, 512, 2, 1, 16))
    )

    def run():
        quasiseparable(x, dt, -torch.ones(2), B, C)

    first = peak_bytes(run, CPU)
    assert peak_bytes(run, CPU) == first > x.nbytes

"""Data parallelism: two processes train as one does."""

import json
import os
import subprocess
import sys

import pytest
import torch

from statefilm.training.parallel import Ranks


def train(folder, processes):
    """The logged metrics of a smoke run under torchrun, which names its model once."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(processes), "-m", "statefilm", "train", "smoke_world_t2i"),
            *("precision=float32", "samples.every_steps=0", "--output", str(folder), "--quiet"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == f"{folder / 'pipeline'}\n"
    lines = (folder / "logs" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_have_the_losses_of_one(tmp_path):
    one, two = (train(tmp_path / str(n), n) for n in (1, 2))
    assert [m["step"] for m in one] == [m["step"] for m in two] == [1, 2, 3, 4]
    assert [m["samples"] for m in one] == [m["samples"] for m in two]
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)


def test_ranks_share_a_batch_without_gaps():
    shares = [Ranks(rank, 3).share(12, 6) for rank in range(3)]
    assert shares == [(12, 2), (14, 2), (16, 2)]


def test_a_batch_that_cannot_be_shared_is_named():
    with pytest.raises(ValueError, match=r"batch_size 5 .* 2 processes: .* 6"):
        Ranks(0, 2).share(0, 5)


def test_alone_nothing_is_exchanged():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.arange(3.0)
    ranks = Ranks.join(torch.device("cpu"))
    ranks.average_gradients([p])
    assert torch.equal(p.grad, torch.arange(3.0))
    assert ranks.agree(1.5, True) == (1.5, True)
    assert ranks.is_first
    ranks.leave()

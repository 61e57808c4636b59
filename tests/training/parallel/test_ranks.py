"""Ranks: who has which samples, and what a process that is alone does."""

import pickle

import pytest
import torch

from statefilm.training.parallel import Ranks
from statefilm.training.recipe import Parallel


def test_ranks_share_a_batch_without_gaps():
    shares = [Ranks(rank, 3).share(12, 6) for rank in range(3)]
    assert shares == [(12, 2), (14, 2), (16, 2)]


def test_processes_of_a_context_have_the_same_samples():
    shares = [Ranks(rank, 4, context=2).share(8, 4) for rank in range(4)]
    assert shares == [(8, 2), (8, 2), (10, 2), (10, 2)]


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
    assert ranks.gather_text("ä") == ["ä"]
    assert ranks.any(True) and not ranks.any(False) and ranks.same(3)
    assert ranks.is_first and not ranks.in_step
    ranks.leave()


@pytest.mark.parametrize(
    "sizes", [{"shard": 2}, {"context": 2}, {"replicate": 2}, {"replicate": 1, "context": 4}]
)
def test_one_process_cannot_be_several(sizes):
    with pytest.raises(ValueError, match=r"does not fit 1 process: .* torchrun") as caught:
        Ranks.join(torch.device("cpu"), Parallel(**sizes))
    assert "\n" not in str(caught.value)


def test_two_sizes_cannot_be_left_open():
    with pytest.raises(ValueError, match="both null"):
        Parallel(replicate=None, shard=None)


def test_what_went_wrong_on_several_processes_is_one_line():
    ranks = Ranks(1, 2)
    lost = "process 1 of 2 lost another one"
    with pytest.raises(ConnectionError, match=lost) as caught, ranks.loud():
        raise RuntimeError("gloo/pair.cc:553] Connection closed by peer\nframe 1\nframe 2")
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes differ"), ranks.loud():
        raise RuntimeError("shapes differ")


def test_a_process_whose_others_do_not_come_says_so(monkeypatch):
    places = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": 0}
    for name, value in (places | {"MASTER_ADDR": "localhost"}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(ConnectionError, match="process 0: not all of 2 processes came") as caught:
        Ranks.join(torch.device("cpu"), Parallel(timeout_minutes=0.02))
    assert "\n" not in str(caught.value)
    assert not torch.distributed.is_initialized()


def test_a_failure_to_write_is_an_os_error_of_one_line():
    def fail():
        raise OSError("no space\nleft")

    with pytest.raises(OSError, match=r"^no space left$"):
        Ranks().together(fail)


def test_workers_get_the_numbers_and_no_connections():
    ranks = Ranks(1, 4, 2, 2, groups=object())  # what cannot be sent is not
    assert pickle.loads(pickle.dumps(ranks)) == ranks
    assert pickle.loads(pickle.dumps(ranks)).groups is None

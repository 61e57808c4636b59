"""Batches: a function of seed, step and sample, whoever prepares them."""

import errno
import multiprocessing
import os
import signal
import time
import traceback

import pytest
import torch

from statefilm.training.batches import Batches
from statefilm.training.objectives import Draw
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import StreamOrder
from statefilm.training.streams import ClipSamples, Stream, WorldSamples

IMAGES = Stream(world=WorldSamples(size=32), batch_size=3, weight=3)
CLIPS = Stream(world=WorldSamples(size=32, num_frames=5), batch_size=2, weight=1)
BALLS = Stream(clips=ClipSamples(world="balls", size=32, num_frames=3), batch_size=4)


def draw(number, size, generators):
    """Small noise; the caption of each second sample is dropped."""
    noise = torch.stack([torch.randn(4, generator=one) for one in generators])
    dropped = torch.arange(len(generators)) % 2 == 1
    return Draw(noise, noise.sigmoid().mean(1), dropped)


def same(first, second):
    tensors = all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("frames", "labels", "noise", "level")
    )
    return tensors and all(
        getattr(first, name) == getattr(second, name) for name in ("stream", "names", "captions")
    )


def test_a_batch_is_a_function_of_seed_and_step():
    batches = Batches(0, [IMAGES, CLIPS], draw)
    assert same(batches[5], Batches(0, [IMAGES, CLIPS], draw)[5])
    assert not same(batches.batch(0, 5), batches.batch(0, 6))
    assert not same(batches.batch(0, 5), Batches(1, [IMAGES, CLIPS], draw).batch(0, 5))


def test_sample_i_of_a_step_has_the_global_index_step_times_size_plus_i():
    small, large = (
        Batches(0, [IMAGES], draw),
        Batches(0, [IMAGES.model_copy(update={"batch_size": 6})], draw),
    )
    first, second, both = small.batch(0, 2), small.batch(0, 3), large.batch(0, 1)
    assert torch.equal(torch.cat([first.frames, second.frames]), both.frames)
    assert torch.equal(torch.cat([first.noise, second.noise]), both.noise)


def test_worker_processes_give_the_same_batches_in_the_same_order():
    batches = Batches(0, [IMAGES, CLIPS], draw)
    alone = list(batches.loader(3, 9, workers=0, pin=False))
    helped = list(batches.loader(3, 9, workers=2, pin=False))
    assert len(alone) == len(helped) == 6
    assert all(same(*pair) for pair in zip(alone, helped, strict=True))


def lacks_memory(number, size, generators):
    return Draw(torch.empty(1 << 50), torch.empty(1), torch.zeros(1, dtype=torch.bool))


def disk_is_full(number, size, generators):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some/file")


def is_wrong(number, size, generators):
    return Draw(torch.zeros(2) @ torch.zeros(3), torch.zeros(1), torch.zeros(1))


def knows_no_such_error(number, size, generators):
    raise type("OddError", (Exception,), {})("in a line\nor two")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("draw", "kind", "words"),
    [
        (lacks_memory, MemoryError, r"^reading the samples of step 4; fewer workers .* less$"),
        (disk_is_full, OSError, r"^\[Errno \d+\] No space left on device: 'some/file'$"),
    ],
)
def test_what_the_machine_lacks_is_told_in_one_line(draw, kind, words, workers):
    with pytest.raises(kind, match=words):
        list(Batches(0, [IMAGES], draw).loader(4, 9, workers, pin=False))


@pytest.mark.parametrize(
    ("draw", "words"),
    [(is_wrong, "inconsistent tensor size"), (knows_no_such_error, "OddError: in")],
)
def test_an_error_of_the_code_keeps_its_traceback(draw, words):
    with pytest.raises(RuntimeError, match=words) as caught:
        list(Batches(0, [IMAGES], draw).loader(4, 9, workers=1, pin=False))
    assert draw.__name__ in "".join(traceback.format_exception(caught.value))
    assert "Traceback" not in str(caught.value)
    assert not multiprocessing.active_children()


def takes_its_time(number, size, generators):
    time.sleep(0.05)
    return draw(number, size, generators)


def test_a_worker_that_is_killed_is_told_in_one_line_and_takes_the_others_along():
    handler = signal.getsignal(signal.SIGCHLD)
    batches = Batches(0, [IMAGES], takes_its_time).loader(0, 10_000, workers=2, pin=False)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler  # torch's raises at any place of a step
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match=r"worker .* is lost") as caught:
        list(batches)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_worker_that_does_not_hear_of_the_end_is_ended(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    batches = Batches(0, [IMAGES], takes_its_time).loader(0, 10_000, workers=1, pin=False)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    batches.close()
    assert worker.exitcode == -signal.SIGKILL


def test_who_has_enough_leaves_no_worker_behind():
    batches = Batches(0, [IMAGES], draw).loader(0, 10_000, workers=2, pin=False)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_streams_are_drawn_by_weight():
    batches = Batches(0, [IMAGES, CLIPS], draw)
    batches.batch = lambda number, step: number
    share = sum(batches[step] for step in range(2000)) / 2000
    assert abs(share - 0.25) < 0.03


def test_a_batch_that_the_ranks_cannot_share_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="batch_size 3 cannot be shared by 2 processes"):
        Batches(0, [CLIPS, IMAGES], draw, Ranks(1, 2))


def test_dropped_captions_are_empty_and_frames_stay():
    batch = Batches(0, [IMAGES], draw)[0]
    assert [bool(caption) for caption in batch.captions] == [True, False, True]
    assert batch.frames.shape == (3, 3, 1, 32, 32)
    assert batch.frames.abs().max() <= 1


def test_clips_of_a_world_come_with_their_classes_and_dropped_ones_without():
    batch = Batches(0, [BALLS], draw)[0]
    assert batch.frames.shape == (4, 3, 3, 32, 32)
    assert (batch.labels[[0, 2]] >= 0).all() and (batch.labels[[1, 3]] == -1).all()
    assert batch.captions[0] and not batch.captions[1]
    assert Batches(0, [IMAGES], draw)[0].labels.eq(-1).all()


def test_a_stream_is_counted_by_the_steps_that_draw_from_it():
    order = StreamOrder(3, [1, 2, 5])
    count = [0, 0, 0]
    for step in range(600):
        if step % 37 == 0 or 254 < step < 259:
            assert [order.drawn(stream, step) for stream in range(3)] == count
        count[order.stream(step)] += 1
    assert StreamOrder(3, [1, 2, 5]).drawn(2, 600) == count[2]
    assert StreamOrder(3, [4]).drawn(0, 10**9) == 10**9

"""Encoded samples: batches that depend on their indices alone, and what a batch holds."""

import math
import pickle
import time

import pytest
import torch

from statefilm.data.files import BucketPlan
from statefilm.data.latents import LatentSamples, open_latents
from statefilm.errors import UsageError


def samples_of(folder, batch_size=4, seed=0):
    cache = open_latents(folder)
    return LatentSamples(cache, BucketPlan(cache.assignment, batch_size, seed))


def test_a_batch_holds_what_was_written(save):
    samples = samples_of(save())
    seen = set()
    for step in range(samples.plan.steps_per_epoch):
        batch = samples.batch(4 * step, 4)
        bucket = samples.bucket(step)
        shape = (2, 1, 4, 4) if bucket.num_frames == 1 else (2, 3, 4, 6)
        assert batch.latents.shape == (4, *shape) and batch.latents.dtype == torch.float32
        numbers = [int(name.split("/")[1].removesuffix(".png")) for name in batch.names]
        for row, number in enumerate(numbers):
            assert (batch.latents[row] == number).all()
            assert batch.captions[row] in (f"caption {number}", f"another of {number}", "")
            assert (batch.captions[row] == "") == (number == 0)
        assert batch.labels.tolist() == [number % 2 for number in numbers]
        seen.update(batch.names)
    assert len(seen) == 11


def test_states_are_padded_as_prompts_are(save):
    batch = samples_of(save()).batch(0, 4)
    assert batch.states.shape == (4, 8, 3) and batch.mask.shape == (4, 8)
    for states, mask, caption in zip(batch.states, batch.mask, batch.captions, strict=True):
        length = 1 + len(caption.split())
        assert mask.tolist() == [True] * length + [False] * (8 - length)
        assert (states[:length] == length).all() and not states[length:].any()


def test_dropped_captions_have_the_states_of_the_empty_one(save):
    samples = samples_of(save())
    whole = samples.batch(4, 4)
    batch = samples.batch(4, 4, [True, False, True, False])
    assert batch.captions == ["", whole.captions[1], "", whole.captions[3]]
    assert batch.mask.sum(1).tolist() == [1 + len(caption.split()) for caption in batch.captions]
    assert torch.equal(batch.latents, whole.latents)


@pytest.mark.parametrize("posterior", [False, True])
def test_parts_of_a_batch_are_those_of_the_whole(save, posterior):
    folder = save(posterior=posterior)
    whole, alone = samples_of(folder), samples_of(folder)
    alone = pickle.loads(pickle.dumps(alone))  # as a worker process gets it
    for step in reversed(range(6)):
        batch = whole.batch(4 * step, 4)
        parts = [alone.batch(4 * step + 2, 2), alone.batch(4 * step, 2)]
        assert torch.equal(batch.latents, torch.cat([parts[1].latents, parts[0].latents]))
        assert batch.captions == parts[1].captions + parts[0].captions
    with pytest.raises(UsageError, match="samples 2 to 5 are not of one step"):
        whole.batch(2, 4)


def test_a_spread_that_was_stored_is_drawn_from(save):
    cache = open_latents(save(counts=(400, 1), posterior=True, rows_a_shard=200))
    samples = LatentSamples(cache, BucketPlan(cache.assignment, 400, 0))
    step = next(step for step in range(2) if samples.bucket(step).num_frames == 1)
    batch = samples.batch(400 * step, 400)
    numbers = torch.tensor([int(name.split("/")[1][:-4]) for name in batch.names])
    errors = batch.latents - numbers.bfloat16().float().view(-1, 1, 1, 1, 1)
    assert float(errors.std()) == pytest.approx(math.exp(-1), rel=0.05)
    assert abs(errors.mean()) < 0.02
    assert (cache.latent(3) == 3).all()


def test_without_text_there_are_captions_alone(save):
    batch = samples_of(save(text=False)).batch(0, 4)
    assert batch.states is None and batch.mask is None
    assert len(batch.captions) == 4
    with pytest.raises(UsageError, match="text was not encoded"):
        open_latents(save(text=False)).text([""])
    with pytest.raises(UsageError, match="'a new caption' was not encoded"):
        open_latents(save(name="other")).text(["a new caption"])


def test_reading_keeps_ahead_of_training(save):
    # 20 times the 30 images a second, of 64 px, that the tiny model takes on two cores.
    folder = save(counts=(800, 1), rows_a_shard=200, shape=(3, 1, 64, 64))
    samples = samples_of(folder, batch_size=50)
    start = time.process_time()
    for step in range(samples.plan.steps_per_epoch):
        samples.batch(50 * step, 50)
    rate = 50 * samples.plan.steps_per_epoch / (time.process_time() - start)
    assert rate > 600, f"{rate:.0f} samples a second"

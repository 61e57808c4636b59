"""The order of training: which bucket and which entries a step holds, as a function of the seed."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from statefilm.data.files.buckets import Assignment, Bucket
from statefilm.errors import UsageError

__all__ = ["BucketPlan"]

_WITHIN_BUCKET = 8  # substitutes sought in a sample's own bucket, which may hold nothing else


class BucketPlan:
    """Batches of one bucket each, the same whatever shares them out.

    Sample i of a step has the global index step * batch_size + i. An epoch is as many steps as it
    takes to see every entry: each bucket is permuted anew and cut into batches, whose last one is
    filled up from the front of the permutation, so that fewer than `batch_size` samples of a
    bucket are seen more than once. The batches of all buckets are then shuffled together.

    Args:
        assignment: which entries go into which bucket.
        batch_size: samples a step, over all ranks.
        seed: of the run.
        drop_last: leave out the batches that are not full instead. A bucket smaller than a batch
            is then never seen.

    Raises:
        UsageError: there would be no batch.
    """

    def __init__(
        self, assignment: Assignment, batch_size: int, seed: int, *, drop_last: bool = False
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size} must be at least 1")
        self.assignment, self.batch_size, self.seed = assignment, batch_size, seed
        counts = {
            bucket: len(numbers) // batch_size if drop_last else -(-len(numbers) // batch_size)
            for bucket, numbers in assignment.members.items()
        }
        self._batches = [(bucket, n) for bucket, count in counts.items() for n in range(count)]
        if not self._batches:
            what = "no bucket fills a batch" if assignment.members else "no entry fits a bucket"
            raise UsageError(f"{what} of {batch_size}")
        self._drawn = self._draw(0)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every entry was seen."""
        return len(self._batches)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets that hold entries."""
        return tuple(self.assignment.members)

    def bucket(self, step: int) -> Bucket:
        """The one bucket that a step's samples come from."""
        return self._batch(step)[1]

    def entry(self, index: int) -> int:
        """The number of the entry that the sample of a global index shows."""
        step, i = divmod(index, self.batch_size)
        epoch, bucket, batch = self._batch(step)
        numbers = self.assignment.members[bucket]
        place = (batch * self.batch_size + i) % len(numbers)
        return numbers[int(self._epoch(epoch).entries[bucket][place])]

    def entries(self, step: int) -> list[int]:
        """The numbers of all entries of a step."""
        start = step * self.batch_size
        return [self.entry(index) for index in range(start, start + self.batch_size)]

    def substitute(self, index: int, attempt: int) -> int:
        """Another entry for a sample, the same whoever asks; attempts from 1.

        The first few are of the same bucket, the others of any bucket of as many frames.
        """
        bucket = self.bucket(index // self.batch_size)
        numbers = self.assignment.members[bucket]
        if attempt > _WITHIN_BUCKET:
            members = self.assignment.members.items()
            alike = (some for other, some in members if other.num_frames == bucket.num_frames)
            numbers = tuple(number for some in alike for number in some)
        return numbers[_seed_of(self.seed, "substitute", index, attempt) % len(numbers)]

    def _batch(self, step: int) -> tuple[int, Bucket, int]:
        """Epoch, bucket and number of the bucket's batch."""
        if step < 0:
            raise UsageError(f"step {step} must not be negative")
        epoch, place = divmod(step, self.steps_per_epoch)
        return epoch, *self._batches[int(self._epoch(epoch).batches[place])]

    def _epoch(self, epoch: int) -> _Epoch:
        if self._drawn.number != epoch:
            self._drawn = self._draw(epoch)
        return self._drawn

    def _draw(self, epoch: int) -> _Epoch:
        entries = {
            bucket: _permutation(len(numbers), self.seed, "entries", epoch, str(bucket))
            for bucket, numbers in self.assignment.members.items()
        }
        return _Epoch(epoch, _permutation(len(self._batches), self.seed, "order", epoch), entries)


class _Epoch(NamedTuple):
    """The permutations of an epoch: of all batches, and of the entries of each bucket."""

    number: int
    batches: Tensor
    entries: dict[Bucket, Tensor]


def _permutation(count: int, *key: str | int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_seed_of(*key)))


def _seed_of(*key: str | int) -> int:
    text = "\x1f".join(map(str, key))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

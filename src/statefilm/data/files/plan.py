"""The order of training: which bucket and which entries a step holds, as a function of the seed."""

from __future__ import annotations

from bisect import bisect_right
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

    Sample i of a step has the global index step * batch_size + i. The entries of a bucket come in
    one permutation after another, cut into batches without a gap, so that all are seen equally
    often whatever the size of their bucket. An epoch holds the batches that the buckets begin
    while each entry is due once more, shuffled together; the first one shows every entry.

    Args:
        assignment: which entries go into which bucket.
        batch_size: samples a step, over all ranks.
        seed: of the run.

    Raises:
        UsageError: there would be no batch.
    """

    def __init__(self, assignment: Assignment, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size} must be at least 1")
        if not assignment.members:
            raise UsageError("no entry fits a bucket")
        self.assignment, self.batch_size, self.seed = assignment, batch_size, seed
        self._total = sum(map(len, assignment.members.values()))
        self._drawn = self._draw(0)
        self._orders: dict[Bucket, tuple[int, Tensor]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every entry was seen; later epochs are hardly longer or shorter."""
        return self._start(1)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The buckets that hold entries."""
        return tuple(self.assignment.members)

    def bucket(self, step: int) -> Bucket:
        """The one bucket that a step's samples come from."""
        return self._batch(step)[0]

    def entry(self, index: int) -> int:
        """The number of the entry that the sample of a global index shows."""
        step, i = divmod(index, self.batch_size)
        bucket, batch = self._batch(step)
        numbers = self.assignment.members[bucket]
        turn, place = divmod(batch * self.batch_size + i, len(numbers))
        return numbers[int(self._order(bucket, turn)[place])]

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

    def _batch(self, step: int) -> tuple[Bucket, int]:
        """The bucket of a step, and which of the bucket's batches it holds."""
        if step < 0:
            raise UsageError(f"step {step} must not be negative")
        if not 0 <= step - self._drawn.start < len(self._drawn.batches):
            latest = step * self.batch_size // self._total
            self._drawn = self._draw(bisect_right(range(latest + 1), step, key=self._start) - 1)
        return self._drawn.batches[step - self._drawn.start]

    def _start(self, epoch: int) -> int:
        """Steps before an epoch."""
        return sum(self._begun(bucket, epoch) for bucket in self.buckets)

    def _begun(self, bucket: Bucket, epoch: int) -> int:
        """Batches of a bucket before an epoch: those that hold what is due by then."""
        return -(-epoch * len(self.assignment.members[bucket]) // self.batch_size)

    def _draw(self, epoch: int) -> _Epoch:
        batches = [
            (bucket, number)
            for bucket in self.buckets
            for number in range(self._begun(bucket, epoch), self._begun(bucket, epoch + 1))
        ]
        order = _permutation(len(batches), self.seed, "order", epoch)
        return _Epoch(self._start(epoch), [batches[place] for place in order.tolist()])

    def _order(self, bucket: Bucket, turn: int) -> Tensor:
        """The permutation in which a bucket's entries are seen for the `turn`th time."""
        known, order = self._orders.get(bucket, (-1, torch.empty(0)))
        if known != turn:
            count = len(self.assignment.members[bucket])
            order = _permutation(count, self.seed, "entries", turn, str(bucket))
            self._orders[bucket] = turn, order
        return order


class _Epoch(NamedTuple):
    """The first step of an epoch, and of each of its steps the bucket and the bucket's batch."""

    start: int
    batches: list[tuple[Bucket, int]]


def _permutation(count: int, *key: str | int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_seed_of(*key)))


def _seed_of(*key: str | int) -> int:
    text = "\x1f".join(map(str, key))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

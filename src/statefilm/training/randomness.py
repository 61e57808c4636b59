"""Randomness as a function: generators and choices that depend on names and numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from random import Random

import torch

__all__ = ["StreamOrder", "generator_of", "seed_of"]

_BLOCK = 256  # steps


def seed_of(*key: str | int) -> int:
    """A seed of 63 bits that depends on every part of `key`, the same on every machine."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_of(*key: str | int) -> torch.Generator:
    """A fresh generator on the CPU, seeded by `key`."""
    return torch.Generator().manual_seed(seed_of(*key))


class StreamOrder:
    """Which stream each step draws from, by weight, and how many steps before drew from it.

    Args:
        seed: of the run.
        weights: of the streams.
    """

    def __init__(self, seed: int, weights: Sequence[float]) -> None:
        self.seed, self.weights = seed, tuple(weights)
        self._before = [[0] * len(self.weights)]  # how often each was drawn before every block

    def stream(self, step: int) -> int:
        """The number of the stream that a step draws from."""
        random = Random(seed_of(self.seed, "stream", step))
        return random.choices(range(len(self.weights)), self.weights)[0]

    def drawn(self, stream: int, step: int) -> int:
        """How many of the steps before `step` draw from a stream."""
        if len(self.weights) == 1:
            return step
        block, rest = divmod(step, _BLOCK)
        while len(self._before) <= block:
            start = (len(self._before) - 1) * _BLOCK
            drawn = Counter(map(self.stream, range(start, start + _BLOCK)))
            self._before.append([n + drawn[i] for i, n in enumerate(self._before[-1])])
        inside = range(step - rest, step)
        return self._before[block][stream] + sum(self.stream(one) == stream for one in inside)

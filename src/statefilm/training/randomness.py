"""Randomness as a function: generators and choices that depend on names and numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from random import Random

import torch

__all__ = ["choose_stream", "generator_of", "seed_of"]


def seed_of(*key: str | int) -> int:
    """A seed of 63 bits that depends on every part of `key`, the same on every machine."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_of(*key: str | int) -> torch.Generator:
    """A fresh generator on the CPU, seeded by `key`."""
    return torch.Generator().manual_seed(seed_of(*key))


def choose_stream(seed: int, step: int, weights: Sequence[float]) -> int:
    """Which stream a step draws from, by weight."""
    return Random(seed_of(seed, "stream", step)).choices(range(len(weights)), weights)[0]

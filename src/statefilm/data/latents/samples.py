"""Training samples from encoded data: a batch as a function of its global indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from statefilm.data.files.buckets import Assignment, Bucket
from statefilm.data.files.plan import BucketPlan
from statefilm.data.latents.index import Encoding, Row, read_index
from statefilm.data.latents.store import Shards, keys_in, shard_files
from statefilm.errors import UsageError

__all__ = ["LATENTS", "TEXT", "LatentBatch", "LatentCache", "LatentSamples", "open_latents"]

LATENTS, TEXT = "latents", "text"  # the folders of the shards

Place = tuple[Path, int]  # shard and row


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """B samples of one shape.

    Attributes:
        latents: float32 [B, C, t, h, w], normalised; frames in [-1, 1] where there was no VAE.
        states: float32 [B, S, D], zero at padding; None where text was not encoded.
        mask: bool [B, S], true at tokens; None with `states`.
        captions: B texts, empty where nothing is said or the caption was dropped.
        labels: int64 [B], classes from 0; -1 where there is none.
        names: B names of entries in the data.
    """

    latents: Tensor
    states: Tensor | None
    mask: Tensor | None
    captions: list[str]
    labels: Tensor
    names: list[str]


@dataclass(frozen=True)
class LatentCache:
    """What `statefilm encode` left in a folder, to be read in any order.

    Attributes:
        encoding: what made it.
        rows: the samples.
        assignment: which of them are in which bucket, as `BucketPlan` takes it.
        fps: frames a second of its clips, where all have the same.
    """

    encoding: Encoding
    rows: tuple[Row, ...]
    assignment: Assignment
    _latents: tuple[Place, ...]
    _texts: dict[str, Place]
    fps: float | None = None
    _shards: Shards = field(default_factory=Shards, repr=False)

    def latent(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """The latents of a row, float32 [C, t, h, w].

        Args:
            generator: draws from the VAE's code, where its spread was stored; None takes the mean.
        """
        shard, place = self._latents[number]
        row = self._shards.row(shard, place)
        mean = row["mean"].float()
        if generator is None or "logvar" not in row:
            return mean
        noise = torch.randn(mean.shape, generator=generator)
        return mean + (0.5 * row["logvar"].float()).exp() * noise

    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States [B, S, D] and mask [B, S] of captions of the data, as `encode_prompts` gives them.

        The empty caption is always there.

        Raises:
            UsageError: a caption is not of the data, or text was not encoded.
        """
        states = [self._states(caption) for caption in captions]
        lengths = torch.tensor([len(one) for one in states])
        longest = -(-int(lengths.max()) // 8) * 8
        padded = torch.zeros(len(states), longest, states[0].shape[1])
        for row, one in zip(padded, states, strict=True):
            row[: len(one)] = one
        return padded, torch.arange(longest) < lengths[:, None]

    def _states(self, caption: str) -> Tensor:
        if caption not in self._texts:
            what = "text was not encoded" if not self._texts else f"{caption!r:.60} was not encoded"
            raise UsageError(f"{what}: the states are those of the data's captions alone")
        shard, place = self._texts[caption]
        return self._shards.row(shard, place)["states"].float()


def open_latents(folder: str | Path) -> LatentCache:
    """The finished encoding that a folder holds. Shards are opened when they are first read.

    Raises:
        FileNotFoundError: no such folder.
        UsageError: it is not finished, or damaged, or a shard is missing.
    """
    folder = Path(folder)
    index = read_index(folder)
    latents = _find(folder / LATENTS, (row.key for row in index.rows))
    texts: dict[str, Place] = {}
    if index.encoding.text is not None:
        captions = list(dict.fromkeys(("", *(c for row in index.rows for c in row.captions))))
        found = _find(folder / TEXT, map(index.encoding.text_key, captions))
        texts = dict(zip(captions, found, strict=True))
    members: dict[Bucket, list[int]] = {}
    for number, row in enumerate(index.rows):
        members.setdefault(row.bucket, []).append(number)
    assignment = Assignment({b: tuple(members[b]) for b in sorted(members)}, {})
    fps = index.made.get("fps")
    return LatentCache(index.encoding, index.rows, assignment, tuple(latents), texts, fps)


def _find(folder: Path, keys: Iterable[str]) -> list[Place]:
    """Where the rows of some keys lie."""
    places = {
        key: (shard, row) for shard in shard_files(folder) for row, key in enumerate(keys_in(shard))
    }
    try:
        return [places[key] for key in keys]
    except KeyError as error:
        raise UsageError(
            f"{folder}: a shard is missing (the one with {error}); run statefilm encode again"
        ) from None


class LatentSamples:
    """The samples of a plan, read from a cache; see `FileSamples`, whose place it takes.

    A sample is a function of the cache, the plan and its global index.

    Args:
        cache: the encoded data.
        plan: made from the cache's `assignment`.
    """

    def __init__(self, cache: LatentCache, plan: BucketPlan) -> None:
        self.cache, self.plan = cache, plan

    def bucket(self, step: int) -> Bucket:
        """The shape of the frames that a step's samples were encoded from."""
        return self.plan.bucket(step)

    def batch(
        self, start: int, count: int, dropped: Sequence[bool] = (), *, text: bool = True
    ) -> LatentBatch:
        """The samples of the global indices `start` to `start + count - 1`, all of one step.

        Args:
            dropped: for each sample whether its caption is left out, by default none is.
            text: whether the captions' states are read, where there are any.

        Raises:
            UsageError: they are of several steps; or a shard is damaged.
        """
        if count < 1 or start < 0:
            raise UsageError(f"start {start} and count {count} are no range of samples")
        if start // self.plan.batch_size != (start + count - 1) // self.plan.batch_size:
            raise UsageError(f"samples {start} to {start + count - 1} are not of one step")
        indices, cache = range(start, start + count), self.cache
        numbers = [self.plan.entry(index) for index in indices]
        rows = [cache.rows[number] for number in numbers]
        latents = [
            cache.latent(number, self._generator(index))
            for number, index in zip(numbers, indices, strict=True)
        ]
        captions = [
            "" if drop else self._caption(row, index)
            for row, index, drop in zip(rows, indices, dropped or [False] * count, strict=True)
        ]
        known = text and cache.encoding.text is not None
        states, mask = cache.text(captions) if known else (None, None)
        labels = torch.tensor([row.label for row in rows])
        names = [row.name for row in rows]
        return LatentBatch(torch.stack(latents), states, mask, captions, labels, names)

    def _caption(self, row: Row, index: int) -> str:
        draw = Random(f"{self.plan.seed}:{index}:caption")
        return draw.choice(row.captions) if row.captions else ""

    def _generator(self, index: int) -> torch.Generator | None:
        if not self.cache.encoding.posterior:
            return None
        seed = Random(f"{self.plan.seed}:{index}:latent").getrandbits(63)
        return torch.Generator().manual_seed(seed)

"""What streams draw their samples from: the interface, procedural worlds, a user's own files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from statefilm.data.files import (
    Bucket,
    BucketPlan,
    FileSamples,
    Quarantine,
    assign,
    make_buckets,
    open_source,
)
from statefilm.data.files import Source as FileIndex
from statefilm.data.latents import LatentCache
from statefilm.data.world import sample_batch, vocabulary
from statefilm.data.worlds import find_world
from statefilm.data.worlds import vocabulary as clip_vocabulary
from statefilm.errors import UsageError, check_stepped
from statefilm.models.text import words_of
from statefilm.training.streams import ClipSamples, FileSource, Stream, WorldSamples

__all__ = [
    "ClipSource",
    "OwnFiles",
    "Samples",
    "Size",
    "Source",
    "WorldSource",
    "buckets_of",
    "check_sizes",
    "source_of",
    "words_in",
]

logger = logging.getLogger(__name__)

_NO_CAPTIONS: Sequence[str] = ()

Size = tuple[int, int, int]  # frames, height and width in pixels


class Samples(NamedTuple):
    """B samples of one size.

    Attributes:
        size: of their frames.
        frames: float32 [B, 3, T, H, W] in [-1, 1]; of a source with a cache their latents.
        captions: B texts, empty where nothing is said.
        labels: int64 [B], classes from 0; -1 where there is none.
        names: B names, by which messages call the samples.
    """

    size: Size
    frames: Tensor
    captions: list[str]
    labels: Tensor
    names: list[str]


class Source(Protocol):
    """Samples by number, the same whoever asks.

    Attributes:
        in_epochs: whether there are only so many samples, each to be seen in its turn: they are
            then numbered by the steps that draw from this stream, otherwise by all steps.
        sizes: all that samples may have, the commonest first; those of one step have one.
        num_classes: None where samples have no classes.
        class_names: of the classes, in order, where they have names.
        captions: all of them, where there are only so many.
        fps: frames a second of clips, where all have the same.
        cache: where latents and text states were encoded ahead; None where samples are frames.
        fingerprint: of all that there is, in its order; "" where it cannot change.
    """

    in_epochs: bool
    sizes: tuple[Size, ...]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    captions: Sequence[str]
    fps: float | None
    cache: LatentCache | None
    fingerprint: str

    @property
    def words(self) -> Sequence[str]:
        """What the captions are made of, each once."""

    def samples(self, start: int, count: int) -> Samples:
        """Samples `start` to `start + count - 1`, which are of one step."""


class WorldSource:
    """Captioned scenes; see `data.world`."""

    in_epochs = False
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    fps: float | None = None
    cache: LatentCache | None = None
    fingerprint = ""

    def __init__(self, seed: int, config: WorldSamples) -> None:
        self.seed, self.config = seed, config
        self.sizes: tuple[Size, ...] = ((config.num_frames, config.size, config.size),)
        self.words, self.captions = vocabulary(), _NO_CAPTIONS

    def samples(self, start: int, count: int) -> Samples:
        world = sample_batch(self.seed, start, count, **self.config.model_dump())
        labels, names = torch.full((count,), -1), _names(start, count)
        return Samples(self.sizes[0], world.frames, world.captions, labels, names)


class ClipSource:
    """Clips of one of `data.worlds`."""

    in_epochs = False
    fps: float | None = None
    cache: LatentCache | None = None
    fingerprint = ""

    def __init__(self, seed: int, config: ClipSamples) -> None:
        self.seed, self.config = seed, config
        world = find_world(config.world)
        self.sizes: tuple[Size, ...] = ((config.num_frames, config.size, config.size),)
        self.num_classes: int | None = world.num_classes
        self.class_names: tuple[str, ...] | None = world.class_names
        # Of all of them, so that a model may go from one to another.
        self.words, self.captions = clip_vocabulary(), _NO_CAPTIONS

    def samples(self, start: int, count: int) -> Samples:
        fields = self.config.model_dump(exclude={"world"})
        batch = find_world(self.config.world).sample_batch(self.seed, start, count, **fields)
        names = _names(start, count)
        return Samples(self.sizes[0], batch.frames, batch.captions, batch.labels, names)


class OwnFiles:
    """A user's images and clips; see `data.files`.

    Args:
        seed: of the order and of what is cropped away.
        config: the recipe's section.
        batch_size: of the stream.
        where: the section's place in the recipe, for messages.
        quarantine: the file that remembers bad items; None is no file.

    Raises:
        UsageError: there is no such data, none of it fits a bucket, or too much of it is bad.
    """

    in_epochs = True
    class_names: tuple[str, ...] | None = None
    cache: LatentCache | None = None

    def __init__(
        self, seed: int, config: FileSource, batch_size: int, where: str, quarantine: Path | None
    ) -> None:
        try:
            source = source_of(config)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        entries, self.fps = source.entries, config.fps
        fps = self.fps
        found = assign(
            entries,
            buckets_of(config),
            fps=fps,
            max_upscale=config.max_upscale,
            stills=config.stills,
        )
        if found.dropped:
            number, reason = next(iter(found.dropped.items()))
            told = f"{len(found.dropped)} of {len(entries)} items are dropped, as "
            told = f"{where}: {told}{entries[number].name!r}: {reason}"
            if not found.members:
                raise UsageError(told)
            logger.warning("%s; statefilm data inspect lists them", told)
        plan = BucketPlan(found, batch_size, seed)
        self.reader = FileSamples(
            source, plan, Quarantine(quarantine), fps=fps, background=config.background
        )
        self.where, self._told = where, 0
        members = found.members
        commonest = sorted(plan.buckets, key=lambda bucket: -len(members[bucket]))
        self.sizes: tuple[Size, ...] = tuple((b.num_frames, *b.size) for b in commonest)
        self.captions: Sequence[str] = [text for entry in entries for text in entry.captions]
        self._labels = {e.name: e.label for e in entries if e.label is not None}
        self.num_classes: int | None = 1 + max(self._labels.values()) if self._labels else None
        self.fingerprint = digest_of(
            (e.name, e.size, e.captions, e.label, str(bucket))
            for bucket, numbers in members.items()
            for e in map(entries.__getitem__, numbers)
        )

    @property
    def words(self) -> Sequence[str]:
        return words_in(self.captions)

    def warn_of_bad(self, *, again: bool = False) -> None:
        """Say how many items are set aside, once; with `again` also that there are more by now."""
        quarantine = self.reader.quarantine
        if self._told and not again:
            return
        quarantine.refresh()
        if len(quarantine) > self._told:
            self._told = len(quarantine)
            lists = quarantine.file or "statefilm data verify"
            told = "%s: %d of %d items cannot be used and are set aside; %s lists them"
            logger.warning(told, self.where, self._told, self.reader.total, lists)

    def samples(self, start: int, count: int) -> Samples:
        batch = self.reader.batch(start, count)
        labels = torch.tensor([self._labels.get(name, -1) for name in batch.names])
        frames, height, width = batch.frames.shape[2:]
        size = (frames, height, width)
        return Samples(size, batch.frames, batch.captions, labels, batch.names)


def source_of(config: FileSource) -> FileIndex:
    """The index of a section's files.

    Raises:
        UsageError: see `open_source`.
    """
    return open_source(
        config.path,
        layout=config.layout,
        split=config.split,
        template=config.template,
        cache=config.cache,
    )


def buckets_of(config: FileSource) -> tuple[Bucket, ...]:
    """The buckets that a section asks for.

    Raises:
        UsageError: the area is smaller than one step each way.
    """
    return make_buckets(
        config.area, config.step, ratios=config.ratios, lengths=config.lengths, frame_step=1
    )


def digest_of(rows: Iterable[object]) -> str:
    """A short hash of rows, in their order."""
    digest = blake2b(digest_size=6)
    for row in rows:
        digest.update(f"{row!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def words_in(captions: Sequence[str]) -> Sequence[str]:
    """Words and punctuation of captions, lower-cased, the most frequent first."""
    counts = Counter(word for text in captions for word in words_of(text))
    return sorted(counts, key=lambda word: (-counts[word], word))


def check_sizes(where: str, stream: Stream, source: Source, steps: Size) -> None:
    """Raise unless a model takes all sizes of a stream.

    Args:
        where: the stream's place in the recipe.
        steps: frames are 1 + k * steps[0], heights and widths multiples of the others.
    """
    names = ("num_frames", "size", "size")
    if stream.files is not None:
        names = ("lengths", "step: height", "step: width")
    if stream.latents is not None:
        names = ("path: num_frames", "path: height", "path: width")
    frames, height, width = (f"{where}.{stream.kind}.{name}" for name in names)
    for size in source.sizes:
        check_stepped(frames, size[0], steps[0], offset=1)
        check_stepped(height, size[1], steps[1])
        check_stepped(width, size[2], steps[2])


def _names(start: int, count: int) -> list[str]:
    return [f"sample {index}" for index in range(start, start + count)]

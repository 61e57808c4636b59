"""What there is to encode: samples and captions with their keys, cut into jobs of one shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from statefilm.data.files import Assignment, BadItem, Bucket, Entry, Limits, Source
from statefilm.data.files.entry import Item, refusing
from statefilm.data.files.images import Color
from statefilm.data.files.listing import open_item
from statefilm.data.files.load import WHITE
from statefilm.data.files.probe import frame_names
from statefilm.data.latents import Encoding, Row
from statefilm.errors import UsageError

__all__ = ["LatentJob", "Options", "TextJob", "Unit", "latent_jobs", "list_units", "text_jobs"]

T = TypeVar("T")

_CHUNK = 1 << 20
_READERS = 8  # threads that hash files


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How samples are taken from entries, and how the work is cut.

    Attributes:
        views: crops and moments of each entry: the first in the middle of the picture and at the
            start of the clip, the others anywhere.
        fps: frames a second of clips; None takes their own.
        background: what shows through transparent pixels.
        batch_size: samples encoded at a time.
        shard_size: bytes of a shard, about.

    Raises:
        UsageError: a number is out of its range.
    """

    views: int = 1
    fps: float | None = None
    background: Color = WHITE
    batch_size: int = 8
    shard_size: int = 512_000_000

    def __post_init__(self) -> None:
        for name in ("views", "batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} must be at least 1")


@dataclass(frozen=True, slots=True)
class Unit:
    """A sample to encode: which crop and moment of an entry it shows follows from its seed."""

    entry: Entry
    seed: str | None
    row: Row


@dataclass(frozen=True, slots=True)
class LatentJob:
    """The samples of one shard, of one bucket."""

    root: Path
    limits: Limits
    options: Options
    bucket: Bucket
    units: tuple[Unit, ...]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True, slots=True)
class TextJob:
    """The captions of one shard, with their keys."""

    captions: tuple[str, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)


def list_units(
    source: Source,
    assignment: Assignment,
    encoding: Encoding,
    options: Options,
) -> tuple[list[Unit], list[BadItem]]:
    """All samples of a source, in its order, and what could not be read.

    What a sample's key depends on is in the bytes of its file, not in its name or age: files may
    move, and equal files are encoded once.
    """
    buckets = {n: bucket for bucket, numbers in assignment.members.items() for n in numbers}
    numbers = sorted(buckets)
    units: list[Unit] = []
    refused: list[BadItem] = []
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda n: _digest(source.root, source.entries[n]), numbers)
        for number, digest in zip(numbers, found, strict=True):
            if isinstance(digest, BadItem):
                refused.append(digest)
            else:
                entry, bucket = source.entries[number], buckets[number]
                units += _views(entry, bucket, digest, encoding, options)
    return units, refused


def _views(
    entry: Entry, bucket: Bucket, digest: str, encoding: Encoding, options: Options
) -> Iterator[Unit]:
    label = -1 if entry.label is None else entry.label
    for view in range(options.views):
        seed = f"{digest}:{view}" if view else None
        sample = digest, entry.kind, entry.part, entry.fps, seed
        shown = bucket.num_frames, bucket.height, bucket.width, options.fps, options.background
        key = encoding.latent_key(sample, shown)
        row = Row(key, entry.name, view, bucket, entry.captions, label)
        yield Unit(entry, seed, row)


def latent_jobs(
    source: Source, units: Iterable[Unit], options: Options, sizes: dict[Bucket, int]
) -> list[LatentJob]:
    """Shards of the units, each key once.

    Args:
        sizes: bytes of one sample in each bucket.
    """
    todo: dict[Bucket, dict[str, Unit]] = {}
    for unit in units:
        todo.setdefault(unit.row.bucket, {}).setdefault(unit.row.key, unit)
    return [
        LatentJob(source.root, source.limits, options, bucket, part)
        for bucket in sorted(todo)
        for part in _cut(tuple(todo[bucket].values()), options.shard_size // sizes[bucket])
    ]


def text_jobs(
    captions: Iterable[str], encoding: Encoding, options: Options, width: int
) -> list[TextJob]:
    """Shards of different captions, those of a length together.

    Args:
        width: bytes of the states of one token.
    """
    ordered = sorted(captions, key=lambda caption: (len(caption), caption))
    jobs: list[TextJob] = []
    start = 0
    while start < len(ordered):
        # A token is three bytes of text or more: the last of a part is about its longest.
        stop, size = start, 0
        while stop < len(ordered) and (stop == start or size <= options.shard_size):
            tokens = min(encoding.max_length, 1 + len(ordered[stop].encode()) // 3)
            size, stop = size + tokens * width, stop + 1
        part = tuple(ordered[start:stop])
        jobs.append(TextJob(part, tuple(map(encoding.text_key, part))))
        start = stop
    return jobs


def _cut(items: tuple[T, ...], length: int) -> Iterator[tuple[T, ...]]:
    length = max(1, length)
    return (items[start : start + length] for start in range(0, len(items), length))


def _digest(root: Path, entry: Entry) -> str | BadItem:
    """A hash of an entry's bytes, or why they cannot be read."""
    try:
        with refusing(entry.name):
            return _digest_of(root, entry.path, entry.kind, entry.offset, entry.size)
    except BadItem as error:
        return error


@lru_cache(maxsize=_READERS)  # the clips of an array are parts of one file
def _digest_of(root: Path, path: str, kind: str, offset: int, size: int) -> str:
    items: Sequence[Item] = [Item(path=path, kind=kind, offset=offset, size=size)]
    if kind == "frames":
        names = frame_names(root, path)
        items = [Item(path=n, kind="image", size=(root / n).stat().st_size) for n in names]
    digest = blake2b(digest_size=16)
    for item in items:
        with open_item(root, item) as file:
            while data := file.read(_CHUNK):
                digest.update(data)
    return digest.hexdigest()

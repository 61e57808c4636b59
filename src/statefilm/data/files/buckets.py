"""Buckets: the sizes and lengths that samples are brought to, and which one an entry fits best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from statefilm.data.files.clips import clip_length
from statefilm.data.files.entry import Entry
from statefilm.data.files.load import cover_scale
from statefilm.errors import UsageError, check_stepped

__all__ = ["RATIOS", "Assignment", "Bucket", "assign", "choose_bucket", "make_buckets"]

RATIOS = (1 / 2, 9 / 16, 2 / 3, 3 / 4, 4 / 5, 1, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2)


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """One shape of samples: frames of one clip (1 for images), height and width in pixels."""

    num_frames: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}" + (
            f"x{self.num_frames}" if self.num_frames > 1 else ""
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which entries go where.

    Attributes:
        members: for each bucket the numbers of its entries, rising; empty buckets are left out.
        dropped: number of an entry to the reason why no bucket takes it.
    """

    members: dict[Bucket, tuple[int, ...]]
    dropped: dict[int, str]


def make_buckets(
    area: int,
    step: int | tuple[int, int],
    *,
    ratios: Iterable[float] = RATIOS,
    lengths: Iterable[int] = (1,),
    frame_step: int = 4,
) -> tuple[Bucket, ...]:
    """Buckets of about one area in all ratios and lengths, sorted, each once.

    Args:
        area: in pixels of one frame, as 256 * 256.
        step: what height and width have to be multiples of: one number or two.
        ratios: width / height.
        lengths: frames: 1 for images, 1 + k * frame_step for clips.

    Raises:
        UsageError: the area is smaller than one step each way, or a length is no valid one.
    """
    steps = (step, step) if isinstance(step, int) else step
    for value in (*steps, area):
        check_stepped("step or area", value, 1)
    if area < math.prod(steps):
        raise UsageError(f"area {area} is less than one step each way: {math.prod(steps)}")
    lengths, ratios = tuple(lengths), tuple(ratios)
    for length in lengths:
        check_stepped("length", length, frame_step, offset=1)
    for ratio in ratios:
        if not (math.isfinite(ratio) and ratio > 0):
            raise UsageError(f"ratio {ratio} must be greater than 0")
    sizes = {_nearest_size(area, ratio, steps) for ratio in ratios}
    return tuple(sorted(Bucket(n, height, width) for n in lengths for height, width in sizes))


def choose_bucket(
    entry: Entry,
    buckets: Iterable[Bucket],
    *,
    fps: float | None = None,
    max_upscale: float = 1.5,
    stills: bool = False,
) -> Bucket:
    """The bucket that shows most of an entry: of a clip the longest, then the least cropped.

    Args:
        fps: frames a second of clips; None takes their own.
        max_upscale: by how much a picture may be enlarged, at most.
        stills: single frames of clips are taken, as images.

    Raises:
        UsageError: no bucket takes the entry; says why.
    """
    as_clip = entry.is_clip and not stills
    alike = [bucket for bucket in buckets if (bucket.num_frames > 1) == as_clip]
    if not alike:
        raise UsageError(f"no bucket is for {'clips' if as_clip else 'images'}")
    length = clip_length(entry, fps)
    fitting = [bucket for bucket in alike if bucket.num_frames <= length]
    if not fitting:
        shortest = min(bucket.num_frames for bucket in alike)
        raise UsageError(f"gives {length} frames, less than {shortest}")
    large = [bucket for bucket in fitting if cover_scale(entry, bucket.size) <= max_upscale]
    if not large:
        scale = min(cover_scale(entry, bucket.size) for bucket in fitting)
        raise UsageError(
            f"{entry.width} x {entry.height} would be enlarged {scale:.2f} times, "
            f"more than {max_upscale:g}"
        )
    return max(large, key=lambda b: (b.num_frames, kept_share(entry, b), b.height * b.width, b))


def kept_share(entry: Entry, bucket: Bucket) -> float:
    """The part of a picture that its bucket does not crop, in (0, 1]."""
    scale = cover_scale(entry, bucket.size)
    return bucket.height * bucket.width / (scale * scale * entry.width * entry.height)


def assign(
    entries: Sequence[Entry],
    buckets: Iterable[Bucket],
    *,
    fps: float | None = None,
    max_upscale: float = 1.5,
    stills: bool = False,
) -> Assignment:
    """`choose_bucket` for every entry."""
    members: dict[Bucket, list[int]] = {bucket: [] for bucket in sorted(set(buckets))}
    dropped: dict[int, str] = {}
    for number, entry in enumerate(entries):
        try:
            bucket = choose_bucket(entry, members, fps=fps, max_upscale=max_upscale, stills=stills)
        except UsageError as error:
            dropped[number] = str(error)
        else:
            members[bucket].append(number)
    return Assignment({b: tuple(numbers) for b, numbers in members.items() if numbers}, dropped)


def _nearest_size(area: int, ratio: float, steps: tuple[int, int]) -> tuple[int, int]:
    """The height and width, in steps, nearest to an area and a ratio together."""
    ideal = math.sqrt(area / ratio), math.sqrt(area * ratio)
    choices = [
        [max(1, round_(side / step)) * step for round_ in (math.floor, math.ceil)]
        for side, step in zip(ideal, steps, strict=True)
    ]

    def miss(size: tuple[int, int]) -> float:
        height, width = size
        return abs(math.log(height * width / area)) + abs(math.log(width / height / ratio))

    return min(((h, w) for h in choices[0] for w in choices[1]), key=miss)

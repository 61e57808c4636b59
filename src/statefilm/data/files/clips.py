"""Which moments of a clip a sample shows: clip length at a frame rate, start and steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from statefilm.data.files.entry import Entry
from statefilm.errors import UsageError

__all__ = ["clip_length", "clip_positions", "nearest_frames", "step_of"]

Frame = TypeVar("Frame")

SLOWEST = 0.95  # of the asked rate: a clip of 23.976 frames a second serves for 24, one of 12 not
_EPSILON = 1e-6


def step_of(entry: Entry, fps: float | None) -> float:
    """How many of the clip's own frames lie between two of the sample's.

    1 if `fps` is None or the file does not say its rate.

    Raises:
        UsageError: the clip has fewer frames a second than are asked for.
    """
    if fps is None or entry.fps is None:
        return 1.0
    if not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"fps {fps} must be greater than 0")
    if entry.fps < SLOWEST * fps:
        raise UsageError(f"{entry.fps:g} frames a second are less than {fps:g}")
    return entry.fps / fps


def clip_length(entry: Entry, fps: float | None) -> int:
    """The frames that a clip gives at `fps`, its first and its last moment included."""
    return 1 + math.floor((entry.frames - 1) / step_of(entry, fps) + _EPSILON)


def clip_positions(entry: Entry, num_frames: int, fps: float | None, start: float) -> list[float]:
    """The moments of a sample, counted in frames of the clip.

    Args:
        start: in [0, 1): from the first possible start to the last.
    """
    step = step_of(entry, fps)
    length = clip_length(entry, fps)
    if num_frames > length:
        raise UsageError(f"gives {length} frames of the {num_frames} asked for")
    slack = math.floor(entry.frames - 1 - (num_frames - 1) * step + _EPSILON)
    first = min(int(start * (slack + 1)), slack)
    return [first + i * step for i in range(num_frames)]


def nearest_frames(frames: Sequence[Frame], positions: Sequence[float]) -> list[Frame]:
    """The frames nearest to some positions."""
    return [frames[min(math.floor(position + 0.5), len(frames) - 1)] for position in positions]

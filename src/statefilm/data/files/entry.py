"""What an index holds: items, where they lie and what their headers say; limits and refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from statefilm.errors import UsageError

__all__ = ["BadItem", "Entry", "Item", "Limits", "reason_of", "refusing"]

_LONGEST_REASON = 200  # characters


@dataclass(frozen=True, slots=True)
class Limits:
    """What an item may ask of the machine; more is refused before it is decoded.

    Attributes:
        pixels: of an image or of one frame.
        image_bytes, video_bytes: of one item, encoded.
        text_bytes: of one caption file, or of one row of a table.
        frames: of one clip.
        seconds: of one clip.
        decoded_frames: decoded for one request, with those that only lead up to the asked ones.
        clips: in one array file.
    """

    pixels: int = 100_000_000
    image_bytes: int = 1 << 28
    video_bytes: int = 1 << 33
    text_bytes: int = 1 << 16
    frames: int = 1_000_000
    seconds: float = 4 * 3600.0
    decoded_frames: int = 5000
    clips: int = 1_000_000

    def check_canvas(self, width: int, height: int) -> None:
        """Raise unless an image or a frame of this size may be decoded."""
        if width < 1 or height < 1:
            raise UsageError(f"{width} x {height} is not the size of a picture")
        if width * height > self.pixels:
            raise UsageError(f"{width} x {height} is more than {self.pixels} pixels")

    def check_clip(self, frames: int, fps: float | None) -> None:
        """Raise unless a clip has frames, and not too many."""
        if frames < 1:
            raise UsageError("holds no frames")
        if frames > self.frames:
            raise UsageError(f"{frames} frames are more than {self.frames}")
        if fps is not None and frames / fps > self.seconds:
            raise UsageError(f"{frames / fps:g} seconds are more than {self.seconds:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Where one sample lies and what is said of it.

    Attributes:
        path: of the file, or of a folder of frames, relative to the source's root, with slashes.
        kind: "image", "video", "array" (.npy or .pt) or "frames" (a folder of images).
        member: name inside a tar.
        part: number of the clip in an array that holds several.
        offset, size: the bytes of the file that are the item's.
        captions: none where nothing was written about it.
        label: the number of its class.
    """

    path: str
    kind: str
    member: str | None = None
    part: int | None = None
    offset: int = 0
    size: int = 0
    captions: tuple[str, ...] = ()
    label: int | None = None

    @property
    def name(self) -> str:
        """What messages and files call it: unique in its source."""
        parts = (self.path, self.member, self.part)
        return "::".join(str(part) for part in parts if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Item):
    """An item whose header was read.

    Attributes:
        width, height: in pixels as shown: upright, and with square pixels.
        frames: 1 for an image.
        fps: frames a second; None where the file does not say, as arrays do not.
    """

    width: int
    height: int
    frames: int = 1
    fps: float | None = None

    @property
    def is_clip(self) -> bool:
        """Whether it moves: images never serve as clips."""
        return self.kind != "image"

    def caption(self, seed: str | int) -> str:
        """One of the captions, by seed; empty if there are none."""
        return Random(f"{seed}:caption").choice(self.captions) if self.captions else ""


class BadItem(UsageError):
    """An item that cannot be used; `name` says which and `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{reason_of(self.name)}: {self.reason}"


def reason_of(error: object) -> str:
    """An error's or a file's own words as one line without control characters, cut if long."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "?", words)
    return words if len(words) <= _LONGEST_REASON else words[: _LONGEST_REASON - 3] + "..."


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Whatever a decoder raises inside becomes a `BadItem`, but for a lack of memory."""
    try:
        yield
    except (BadItem, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds; any of them means broken
        raise BadItem(name, reason_of(error)) from error

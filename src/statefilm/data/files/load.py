"""From an entry to frames: choose the moments, decode, make upright, resize and crop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from statefilm.data.files.arrays import read_clip
from statefilm.data.files.clips import clip_positions, nearest_frames
from statefilm.data.files.entry import Entry, Item, Limits, refusing
from statefilm.data.files.images import Color, read_image, to_rgb
from statefilm.data.files.listing import open_item
from statefilm.data.files.probe import frame_names
from statefilm.data.files.videos import read_frames
from statefilm.errors import UsageError

__all__ = ["WHITE", "cover_scale", "load", "read_still"]

WHITE = (255, 255, 255)


def load(
    root: Path,
    entry: Entry,
    size: tuple[int, int],
    *,
    num_frames: int = 1,
    fps: float | None = None,
    seed: str | int | None = None,
    background: Color = WHITE,
    limits: Limits | None = None,
) -> Tensor:
    """The frames of an entry: a function of the entry's file and the other arguments alone.

    A picture is resized, antialiased, until it covers the size, and what juts out is cropped.

    Args:
        root: the source's folder.
        size: height and width in pixels.
        num_frames: 1 for images; of clips so many frames, `fps` a second.
        fps: None takes the clip's own frames one after another.
        seed: draws which part of the picture and of the clip is taken; None takes the centre of
            the picture and the start of the clip.
        background: what shows through transparent pixels.
        limits: those of the source, by default.

    Returns:
        uint8 [3, T, H, W].

    Raises:
        BadItem: the entry cannot be read, or not as it was when it was indexed.
    """
    if min(size) < 1 or num_frames < 1:
        raise UsageError(f"size {size} and num_frames {num_frames} must be positive")
    draw = Random(f"{seed}:crop").random
    right, down, start = (0.5, 0.5, 0.0) if seed is None else (draw(), draw(), draw())
    limits = limits or Limits()
    with refusing(entry.name):
        positions = clip_positions(entry, num_frames, fps, start)
        pictures = _pictures(root, entry, size, positions, background, limits)
        resized = [_cover(picture, entry, size, (right, down)) for picture in pictures]
        return torch.from_numpy(np.stack(resized)).permute(3, 0, 1, 2).contiguous()


def cover_scale(entry: Entry, size: tuple[int, int]) -> float:
    """By how much a picture grows, or shrinks below 1, until it covers a height and a width."""
    return max(size[0] / entry.height, size[1] / entry.width)


def _pictures(
    root: Path,
    entry: Entry,
    size: tuple[int, int],
    positions: Sequence[float],
    background: Color,
    limits: Limits,
) -> list[Image.Image]:
    if entry.kind == "frames":
        names = frame_names(root, entry.path)
        if len(names) != entry.frames:
            raise UsageError(f"had {entry.frames} frames when it was indexed, now {len(names)}")
        return [
            read_still(root, entry, name, size, background, limits)
            for name in nearest_frames(names, positions)
        ]
    if entry.kind == "image":
        return [read_still(root, entry, None, size, background, limits)]
    with open_item(root, entry) as file:
        if entry.kind == "video":
            assert entry.fps is not None
            times = [position / entry.fps for position in positions]
            return read_frames(file, times, entry.fps, background, limits)
        chosen = nearest_frames(range(entry.frames), positions)
        frames = read_clip(file, entry.size, entry.part or 0, chosen)
        return [to_rgb(Image.fromarray(frame.squeeze()), background) for frame in frames]


def read_still(
    root: Path,
    entry: Entry,
    name: str | None,
    size: tuple[int, int],
    background: Color,
    limits: Limits,
) -> Image.Image:
    """An image: the entry itself, or of a folder of frames the one that is named.

    Args:
        size: height and width that it has to cover; it may come larger.
    """
    item: Item = entry
    if name is not None:
        item = Item(path=name, kind="image", size=(root / name).stat().st_size)
    scale = cover_scale(entry, size)
    least = math.ceil(entry.width * scale), math.ceil(entry.height * scale)
    with open_item(root, item) as file:
        return read_image(file, (entry.width, entry.height), least, background, limits)


def _cover(
    picture: Image.Image, entry: Entry, size: tuple[int, int], where: tuple[float, float]
) -> np.ndarray:
    """The part of a picture that is taken, uint8 [H, W, 3]; `where` is in [0, 1]: right, down."""
    height, width = size
    scale = cover_scale(entry, size)
    # Shares of the picture, whose pixels may be fewer than the entry's, or not square.
    # Rounding may bring what covers the picture exactly to just above all of it.
    across, up = min(width / scale / entry.width, 1), min(height / scale / entry.height, 1)
    left, top = (1 - across) * where[0], (1 - up) * where[1]
    box = (left, top, min(left + across, 1), min(top + up, 1))
    wide, high = picture.size
    pixels = (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=pixels))

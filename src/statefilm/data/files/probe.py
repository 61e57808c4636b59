"""From an item to its entries by their headers; of a video the first frame is decoded too."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from statefilm.data.files.arrays import ARRAYS, array_header
from statefilm.data.files.entry import Entry, Item, Limits, refusing
from statefilm.data.files.images import IMAGES, image_size, is_animated
from statefilm.data.files.listing import open_item
from statefilm.data.files.videos import VIDEOS, video_header
from statefilm.errors import UsageError

__all__ = ["frame_names", "kind_of", "probe"]


def kind_of(name: str) -> str | None:
    """What a file is by its suffix; None if it is no sample."""
    suffix = PurePosixPath(name).suffix.lower()
    kinds = {"image": IMAGES, "video": VIDEOS, "array": ARRAYS}
    return next((kind for kind, suffixes in kinds.items() if suffix in suffixes), None)


def probe(root: Path, item: Item, limits: Limits) -> list[Entry]:
    """The entries of an item: one, or one for each clip of an array.

    Raises:
        BadItem: its header cannot be read, lies about what the file holds, or is over the limits.
    """
    with refusing(item.name):
        if item.kind == "frames":
            return [_probe_frames(root, item, limits)]
        largest = limits.image_bytes if item.kind == "image" else limits.video_bytes
        if item.size > largest:
            raise UsageError(f"{item.size} bytes are more than {largest}")
        if item.kind == "array":
            return _probe_array(root, item, limits)
        if item.kind == "image" and not _is_clip(root, item, limits):
            with open_item(root, item) as file:
                width, height = image_size(file, limits)
            return [_entry(item, width=width, height=height)]
        with open_item(root, item) as file:
            header = video_header(file, limits)
        facts = {field.name: getattr(header, field.name) for field in fields(header)}
        return [_entry(item, **facts, kind="video")]


def frame_names(root: Path, folder: str) -> list[str]:
    """The images in a folder of frames, in order, named from the root: frame 9 before frame 10."""
    names = sorted((path.name for path in (root / folder).iterdir()), key=_by_numbers)
    return [f"{folder}/{name}" for name in names if kind_of(name) == "image" and name[0] != "."]


def _by_numbers(name: str) -> tuple[list[str | int], str]:
    """What sorts names by the numbers in them; those that differ in zeros in front by text."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def _probe_frames(root: Path, item: Item, limits: Limits) -> Entry:
    names = frame_names(root, item.path)
    limits.check_clip(len(names), None)
    size = (root / names[0]).stat().st_size
    with open_item(root, Item(path=names[0], kind="image", size=size)) as file:
        width, height = image_size(file, limits)
    return _entry(item, width=width, height=height, frames=len(names))


def _probe_array(root: Path, item: Item, limits: Limits) -> list[Entry]:
    with open_item(root, item) as file:
        header = array_header(file, item.size)
    height, width = header.picture[:2]
    limits.check_canvas(width, height)
    limits.check_clip(header.frames, None)
    if header.clips > limits.clips:
        raise UsageError(f"{header.clips} clips are more than {limits.clips}")
    facts = {"width": width, "height": height, "frames": header.frames}
    if header.clips == 1:
        return [_entry(item, **facts)]
    return [_entry(item, **facts, part=part) for part in range(header.clips)]


def _is_clip(root: Path, item: Item, limits: Limits) -> bool:
    """GIF is a format of pictures and of clips."""
    if not (item.member or item.path).lower().endswith(".gif"):
        return False
    with open_item(root, item) as file:
        return is_animated(file, limits)


def _entry(item: Item, **facts: Any) -> Entry:
    known = {field.name: getattr(item, field.name) for field in fields(Item)}
    return Entry(**{**known, **facts})

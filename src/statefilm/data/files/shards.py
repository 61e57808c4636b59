"""WebDataset shards: tars whose members are grouped by name and read where they lie."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from statefilm.data.files.captions import captions_of, from_json, from_text
from statefilm.data.files.entry import Item, Limits, reason_of
from statefilm.data.files.listing import check_name, read_item
from statefilm.data.files.probe import kind_of
from statefilm.errors import UsageError

__all__ = ["read_shard"]

_BLOCK = 512


def read_shard(root: Path, shard: str, limits: Limits) -> tuple[list[Item], dict[str, str]]:
    """The samples of a tar and what was refused, by name.

    Members of one name up to the first dot are one sample (github.com/webdataset/webdataset): an
    image, a clip or an array, with captions in a .txt, .caption or .json and its class in a .cls.
    """
    refused: dict[str, str] = {}
    groups: dict[str, dict[str, Item]] = {}
    for member in _members(root, shard, refused):
        assert member.member is not None
        folder, _, base = member.member.rpartition("/")
        key, _, extension = base.partition(".")
        group = groups.setdefault(f"{folder}/{key}", {})
        if extension in group:
            refused[member.name] = "stands twice in the shard"
        group.setdefault(extension, member)
    items = []
    for group in groups.values():
        media = [item for extension, item in group.items() if kind_of(f"x.{extension}")]
        for item in media:
            try:
                if len(media) > 1:
                    raise UsageError("its name has several images or clips")
                items.append(_with_captions(root, item, group, limits))
            except UsageError as error:
                refused[item.name] = reason_of(error)
    return items, refused


def _with_captions(root: Path, item: Item, group: dict[str, Item], limits: Limits) -> Item:
    readers = {"txt": from_text, "caption": from_text, "json": from_json}
    captions: tuple[str, ...] = ()
    for extension, read in readers.items():
        if extension in group and not captions:
            captions = captions_of(read(read_item(root, group[extension], limits.text_bytes)))
    label = None
    if "cls" in group:
        digits = read_item(root, group["cls"], limits.text_bytes).strip()
        if not (digits.isdigit() and len(digits) < 10):
            raise UsageError("its .cls is not the number of a class")
        label = int(digits)
    return replace(item, captions=captions, label=label)


def _members(root: Path, shard: str, refused: dict[str, str]) -> Iterator[Item]:
    """The regular members of a tar that have a good name and are all there."""
    path, last = root / shard, -1
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                # A negative size leads tarfile back to where it was, again and again.
                if info.offset <= last or info.size < 0:
                    raise tarfile.ReadError("a header leads back")
                last = info.offset
                item = _item(shard, info)
                why = _fault(info, size)
                if why is not None:
                    refused[item.name] = why
                elif info.isreg():
                    yield item
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        refused[shard] = f"is not a whole plain tar: {reason_of(error)}"


def _item(shard: str, info: tarfile.TarInfo) -> Item:
    return Item(
        path=shard,
        kind=kind_of(info.name) or "text",
        member=info.name,
        offset=info.offset_data,
        size=info.size,
    )


def _fault(info: tarfile.TarInfo, size: int) -> str | None:
    """What is wrong with a member; folders, and headers without data, are passed over."""
    if info.isdir():
        return None
    try:
        check_name(info.name)
    except UsageError as error:
        return reason_of(error)
    if not info.isreg() or info.issparse():
        return "is a link, a device or a sparse file: only plain files are read"
    return "is cut short" if info.offset_data + info.size > size else None


def _check_end(path: Path, offset: int) -> None:
    """Raise unless the end mark stands here: tarfile ends silently at a broken header."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"broken at byte {offset}; what follows is not read")

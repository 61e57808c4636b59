"""The layouts of folders: which items they hold, with what captions, classes and splits."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from statefilm.data.files.captions import (
    captions_of,
    class_words,
    fill,
    from_json,
    from_text,
    pick,
)
from statefilm.data.files.entry import Item, Limits, reason_of
from statefilm.data.files.listing import Listing, check_name, read_item
from statefilm.data.files.probe import kind_of
from statefilm.data.files.shards import read_shard
from statefilm.data.files.tables import PATH_KEYS, TABLES, is_table, read_rows
from statefilm.errors import UsageError

__all__ = ["LAYOUTS", "SPLITS", "Found", "Query", "recognise"]

SPLITS = ("train", "val", "test")
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_TARS = (".tar", ".tar.gz", ".tgz")  # the compressed ones are told so
_UCF_CLIP = re.compile(r"v_\w+_g\d\d_c\d\d\.avi")
_UCF_LIST = re.compile(r"(train|test)list01\.txt")
_CARLA_CLIP = re.compile(r"video_(\d+)\.pt")
_CARLA_LIST = re.compile(r"video_(train|test)\.csv")


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of a folder: a split, and the caption of a class; "{}" is the class.

    `table` is the one that was named, in place of those that are found by their names.
    """

    split: str
    template: str
    limits: Limits
    table: str | None = None


@dataclass(slots=True)
class Found:
    """The items of a source, what was refused, by name, and the tables that were read."""

    items: list[Item] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)


Layout = Callable[[Listing, Query], Found]


def recognise(listing: Listing) -> str:
    """The name of the layout that a folder has."""
    names = [PurePosixPath(name) for name in listing.files]
    if any(name.name in TABLES for name in names if len(name.parts) <= 2):
        return "table"
    if any(name.name.lower().endswith(_TARS) for name in names):
        return "webdataset"
    if any(_CARLA_CLIP.fullmatch(name.name) for name in names):
        return "carla"
    if any(_UCF_CLIP.fullmatch(name.name) for name in names):
        return "ucf101"
    folders = {name.parent for name in names if kind_of(name.name)}
    captions = {name.with_suffix("") for name in names if name.suffix in (".txt", ".json")}
    is_captioned = any(kind_of(n.name) and n.with_suffix("") in captions for n in names)
    classes = {folder.name.casefold() for folder in folders}
    is_split = classes <= {name for names in _SPLIT_FOLDERS.values() for name in names}
    if len(folders) < 2 or PurePosixPath() in folders or is_captioned or is_split:
        return "folder"
    return "imagefolder"


def folder_layout(listing: Listing, query: Query) -> Found:
    """Files anywhere below the folder, each with a .txt or a .json of captions beside it."""
    listing, found = _split_of(listing, query.split)
    for name, (size, _) in listing.files.items():
        kind = kind_of(name)
        if kind is None:
            continue
        try:
            captions = _captions_beside(listing, name, query.limits)
            found.items.append(Item(path=name, kind=kind, size=size, captions=captions))
        except UsageError as error:
            found.refused[name] = reason_of(error)
    return found


def table_layout(listing: Listing, query: Query) -> Found:
    """A .jsonl, .csv or .parquet with a path, a caption and perhaps a label in each row."""
    part, found = _split_of(listing, query.split)
    found.tables = [
        name
        for name in listing.files
        if PurePosixPath(name).name in TABLES and (name in part.files or "/" not in name)
    ]
    if query.table is not None:
        found.tables = [query.table]
    if not found.tables:
        others = [f": give the path of {name}" for name in listing.files if is_table(name)]
        raise UsageError(f"holds no {' or '.join(TABLES)}{''.join(others[:1])}")
    folders, chosen = listing.folders(), part.folders()
    items: dict[str, Item] = {}
    for table in found.tables:
        base = table.rpartition("/")[0]
        for number, row in read_rows(listing.root / table, query.limits):
            try:
                item = _item_of(row, base, listing, folders)
            except UsageError as error:
                found.refused[f"{table}:{number}"] = reason_of(error)
                continue
            if item.path in part.files or item.path in chosen:
                known = items.get(item.path)
                captions = dict.fromkeys((*(known.captions if known else ()), *item.captions))
                items[item.path] = replace(item, captions=tuple(captions))
    found.items += items.values()
    return found


def imagefolder_layout(listing: Listing, query: Query) -> Found:
    """A folder for each class, named after it; labels number the classes by name from 0."""
    listing, found = _split_of(listing, query.split)
    media = {name: size for name, (size, _) in listing.files.items() if kind_of(name)}
    classes = {name: PurePosixPath(name).parent.name for name in media}
    labels = {name: label for label, name in enumerate(sorted(set(classes.values())))}
    for name, size in media.items():
        found.items.append(
            Item(
                path=name,
                kind=kind_of(name) or "",
                size=size,
                captions=fill(query.template, class_words(classes[name])),
                label=labels[classes[name]],
            )
        )
    return found


def ucf101_layout(listing: Listing, query: Query) -> Found:
    """UCF101 (arXiv 1212.0402): class/clip.avi, split by trainlist01.txt and testlist01.txt."""
    lists = {
        match[1]: name
        for name in listing.files
        if (match := _UCF_LIST.fullmatch(PurePosixPath(name).name))
    }
    found = imagefolder_layout(listing, replace(query, split="train"))
    found.items = [item for item in found.items if item.kind == "video"]
    if not lists:
        _only_train(query.split)
        return found
    if query.split not in lists:
        raise UsageError(f"split {query.split!r} has no list: there are {', '.join(sorted(lists))}")
    lines = _text_lines(listing, lists[query.split])
    chosen = {line.split()[0] for line in lines if line.strip()}
    found.items = [i for i in found.items if "/".join(i.path.split("/")[-2:]) in chosen]
    return found


def carla_layout(listing: Listing, query: Query) -> Found:
    """CARLA Town01 (arXiv 2205.11495): video_N.pt, split by video_train.csv and video_test.csv."""
    found = Found(refused=dict(listing.refused))
    clips = {
        PurePosixPath(name).name: Item(path=name, kind="array", size=size)
        for name, (size, _) in listing.files.items()
        if _CARLA_CLIP.fullmatch(PurePosixPath(name).name)
    }
    lists = {
        match[1]: name
        for name in listing.files
        if (match := _CARLA_LIST.fullmatch(PurePosixPath(name).name))
    }
    chosen = set(clips)
    if query.split in lists:
        rows = csv.reader(_text_lines(listing, lists[query.split]))
        chosen = {PurePosixPath(row[-1]).name for row in rows if row}
    else:
        _only_train(query.split)
    found.items = [item for name, item in clips.items() if name in chosen]
    return found


def webdataset_layout(listing: Listing, query: Query) -> Found:
    """Shards: .tar files whose members are samples and their captions."""
    listing, found = _split_of(listing, query.split)
    for name in listing.files:
        if name.lower().endswith(_TARS):
            items, refused = read_shard(listing.root, name, query.limits)
            found.items += items
            found.refused |= refused
    return found


LAYOUTS: dict[str, Layout] = {
    "folder": folder_layout,
    "table": table_layout,
    "imagefolder": imagefolder_layout,
    "webdataset": webdataset_layout,
    "ucf101": ucf101_layout,
    "carla": carla_layout,
}


def _split_of(listing: Listing, split: str) -> tuple[Listing, Found]:
    """The part that a folder such as train/ holds; all of a listing that has no such folders.

    One folder of such a name among others is not a split but, for example, the class of trains.
    """
    held = [name for name in listing.files if kind_of(name) or name.lower().endswith(_TARS)]
    tops = {name.split("/")[0] for name in held if "/" in name}
    by_split = {
        known: sorted(top for top in tops if top.casefold() in names)
        for known, names in _SPLIT_FOLDERS.items()
    }
    present = sum(map(len, by_split.values()))
    if present and (present == len(tops) or sum(map(bool, by_split.values())) > 1):
        if not by_split[split]:
            known = ", ".join(known for known in SPLITS if by_split[known])
            raise UsageError(f"split {split!r} is not there: choose from {known}")
        listing = listing.below(by_split[split][0])
    else:
        _only_train(split)
    return listing, Found(refused=dict(listing.refused))


def _only_train(split: str) -> None:
    if split != "train":
        raise UsageError(f"split {split!r} is not there: the data are not split")


def _captions_beside(listing: Listing, name: str, limits: Limits) -> tuple[str, ...]:
    texts, trees = (".txt", from_text), (".json", from_json)
    for suffix, read in (texts, trees, (".TXT", from_text), (".JSON", from_json)):
        beside = str(PurePosixPath(name).with_suffix(suffix))
        if beside in listing.files:
            item = Item(path=beside, kind="text", size=listing.files[beside][0])
            return read(read_item(listing.root, item, limits.text_bytes))
    return ()


def _item_of(row: dict[str, Any] | str, base: str, listing: Listing, folders: set[str]) -> Item:
    """The item of a table's row; its path counts from the table's folder."""
    if isinstance(row, str):
        raise UsageError(row)
    path = next((row[key] for key in PATH_KEYS if row.get(key)), None)
    if not isinstance(path, str):
        raise UsageError(f"the row has no {' or '.join(PATH_KEYS)}")
    check_name(path)
    name = str(PurePosixPath(base, path))
    captions, label = captions_of(pick(row)), _label_of(row.get("label"))
    if name in listing.files:
        kind, size = kind_of(name), listing.files[name][0]
        if kind is None:
            raise UsageError(f"{path}: neither an image nor a clip")
        return Item(path=name, kind=kind, size=size, captions=captions, label=label)
    if name in folders:
        return Item(path=name, kind="frames", captions=captions, label=label)
    raise UsageError(f"{path}: {listing.refused.get(name, 'no such file in the folder')}")


def _label_of(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, int) and 0 <= value < 1 << 31:
        return int(value)
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return int(value)
    raise UsageError("its label is not the number of a class")


def _text_lines(listing: Listing, name: str) -> list[str]:
    item = Item(path=name, kind="text", size=listing.files[name][0])
    return read_item(listing.root, item, 1 << 24).decode("utf-8", "replace").splitlines()

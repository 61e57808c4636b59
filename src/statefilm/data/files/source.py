"""A user's data as one index: what is recognised, read header by header, sorted and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from statefilm.data.files.cache import Index, fingerprint, read_index, write_index
from statefilm.data.files.captions import fill
from statefilm.data.files.entry import BadItem, Entry, Limits
from statefilm.data.files.layouts import LAYOUTS, SPLITS, Query, recognise
from statefilm.data.files.listing import Listing, list_folder
from statefilm.data.files.probe import probe
from statefilm.data.files.tables import is_table
from statefilm.errors import UsageError, suggest

__all__ = ["Source", "open_source"]


@dataclass(frozen=True, slots=True)
class Source:
    """An index of samples.

    Attributes:
        root: the folder that the entries' paths count from.
        layout: the key of `LAYOUTS` by which it was read.
        entries: sorted by path, member and part.
        refused: name to reason of what is broken, hostile or over the limits.
        limits: what entries may ask for, when they are indexed and when they are loaded.
        tables: whose rows are the entries, in layout "table".
    """

    root: Path
    layout: str
    entries: tuple[Entry, ...]
    refused: dict[str, str]
    limits: Limits
    tables: tuple[str, ...] = ()


def open_source(
    path: str | Path,
    *,
    layout: str = "auto",
    split: str = "train",
    template: str = "{}",
    cache: str | Path | None = None,
    limits: Limits | None = None,
) -> Source:
    """Index a folder, or one file: a table, whose paths count from its folder, a tar, a clip ...

    Only headers are read, and of a video the first frame. Nothing is written to the folder, and
    nothing outside it is read.

    Args:
        layout: a key of `LAYOUTS`, or "auto" to recognise it: "folder" (captions beside the
            files), "table" (metadata.jsonl, .csv or .parquet in a folder, one of any name as
            `path`), "imagefolder" (a folder for each class), "webdataset" (tars), "ucf101" or
            "carla". MineRL Navigate and GQN-Mazes (arXiv 2102.09532) are folders of clips, Moving
            MNIST is an array in a folder.
        split: "train", "val" or "test", where the data are split by folders or lists.
        template: the caption of a class in "imagefolder" and "ucf101"; "{}" is its name.
        cache: a folder outside the data that keeps the index, which is used again as long as no
            name, size or time of change differs.
        limits: `Limits()` by default.

    Raises:
        UsageError: there is no such data, or none of it can be used.
    """
    path, limits = Path(path), limits or Limits()
    if layout not in ("auto", *LAYOUTS):
        raise suggest(layout, ("auto", *LAYOUTS), "layout")
    if split not in SPLITS:
        raise suggest(split, SPLITS, "split")
    fill(template, "")
    listing, table = _listing(path)
    if layout == "auto":
        layout = "table" if table else recognise(listing)
    query = Query(split, template, limits, table)
    if cache is None:
        index = _index(path, listing, layout, query)
    else:
        index = _kept_index(Path(cache), path, listing, layout, query)
    return Source(listing.root, layout, index.entries, index.refused, limits, index.tables)


def _listing(path: Path) -> tuple[Listing, str | None]:
    """What is to be looked at: a folder, one file, or a table's folder with the table's name."""
    if path.is_dir():
        return list_folder(path), None
    if not path.is_file():
        raise UsageError(f"{path}: no such file or folder")
    whole = list_folder(path.parent)
    if path.name not in whole.files:
        raise UsageError(f"{path}: {whole.refused.get(path.name, 'is hidden')}")
    if is_table(path.name):
        return whole, path.name
    return Listing(whole.root, {path.name: whole.files[path.name]}, {}), None


def _index(path: Path, listing: Listing, layout: str, query: Query) -> Index:
    try:
        found = LAYOUTS[layout](listing, query)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    entries: list[Entry] = []
    refused = dict(found.refused)
    for item in found.items:
        try:
            entries += probe(listing.root, item, query.limits)
        except BadItem as error:
            refused[error.name] = error.reason
    if not entries and not refused:
        raise UsageError(f"{path}: holds no images or clips of layout {layout!r}")
    if not entries:
        name, reason = next(iter(refused.items()))
        raise UsageError(f"{path}: none of {len(refused)} items can be used: {name}: {reason}")
    entries.sort(key=lambda entry: (entry.path, entry.member or "", entry.part or 0))
    return Index(tuple(entries), dict(sorted(refused.items())), tuple(found.tables))


def _kept_index(cache: Path, path: Path, listing: Listing, layout: str, query: Query) -> Index:
    if cache.resolve().is_relative_to(listing.root.resolve()):
        raise UsageError(f"cache {cache} lies in the data: choose a folder outside {listing.root}")
    file = cache / f"index-{fingerprint(listing, layout, query)}.jsonl"
    index = read_index(file)
    if index is None:
        index = _index(path, listing, layout, query)
        write_index(file, index)
    return index

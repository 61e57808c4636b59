"""The index on disk, as JSON lines named after a hash of all it depends on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from statefilm.data.files.entry import Entry
from statefilm.data.files.listing import Listing

__all__ = ["Index", "fingerprint", "read_index", "write_index"]

_FORMAT = 3  # to be raised when the same files would give other entries


@dataclass(frozen=True, slots=True)
class Index:
    """Entries in order, the names of what was refused with the reasons, and the tables read."""

    entries: tuple[Entry, ...]
    refused: dict[str, str]
    tables: tuple[str, ...] = ()


def fingerprint(listing: Listing, *asked: Any) -> str:
    """Of the names, sizes and times of change of all files, and of what is asked of them."""
    digest = blake2b(repr((_FORMAT, asked)).encode(), digest_size=16)
    for part in (listing.files, listing.refused):
        for name, state in part.items():
            digest.update(repr((name, state)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def read_index(file: Path) -> Index | None:
    """The index that a file holds; None if it is not there or not as it was written."""
    try:
        first, _, rest = file.read_text("utf-8").partition("\n")
        head = json.loads(first)
        if head["sum"] != _sum(rest):
            return None
        rows = [json.loads(line) for line in rest.splitlines()]
        entries = tuple(Entry(**{**row, "captions": tuple(row["captions"])}) for row in rows)
        return Index(entries, dict(head["refused"]), tuple(head["tables"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def write_index(file: Path, index: Index) -> None:
    """Write an index whole or not at all; the folder is made."""
    rest = "".join(json.dumps(asdict(entry)) + "\n" for entry in index.entries)
    head = json.dumps({"sum": _sum(rest), "refused": index.refused, "tables": index.tables})
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(f"{head}\n{rest}", "utf-8")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _sum(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()

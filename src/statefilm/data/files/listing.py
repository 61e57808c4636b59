"""What a folder holds: a walk that stays inside it, and windows on the bytes of its files."""

from __future__ import annotations

import io
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from statefilm.data.files.entry import Item
from statefilm.errors import UsageError

__all__ = ["Listing", "check_name", "list_folder", "open_item", "read_item"]

_SPARE = 1 << 24  # bytes a decoder may read in all, beside `_READINGS` times the item
_READINGS = 16


@dataclass(frozen=True, slots=True)
class Listing:
    """The regular files below `root` (name to size and time of change) and what was refused."""

    root: Path
    files: dict[str, tuple[int, int]]
    refused: dict[str, str]

    def below(self, folder: str) -> Listing:
        """The part that lies in a folder, still named from the root."""
        start = f"{folder}/"
        kept = {name: state for name, state in self.files.items() if name.startswith(start)}
        refused = {name: why for name, why in self.refused.items() if name.startswith(start)}
        return Listing(self.root, kept, refused)

    def folders(self) -> set[str]:
        """The folders that hold files, named from the root; "" is the root."""
        return {name.rpartition("/")[0] for name in self.files}


def list_folder(root: Path) -> Listing:
    """All regular files below a folder, sorted; hidden ones and links to folders are left out."""
    files: dict[str, tuple[int, int]] = {}
    refused: dict[str, str] = {}
    inside = root.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in [*folders, *names]:
            path = Path(folder, name)
            if _is_hidden(name) or (name in folders and not path.is_symlink()):
                continue
            short = path.relative_to(root).as_posix()
            try:
                check_name(short)
                files[short] = _state_of(path, inside)
            except (OSError, UsageError) as error:
                refused[short] = str(error)
    return Listing(root, dict(sorted(files.items())), dict(sorted(refused.items())))


def check_name(name: str) -> None:
    """Raise unless a name is relative, stays where it starts and has no control characters."""
    if not name:
        raise UsageError("the name is empty")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise UsageError("the name has control characters")
    if "://" in name:
        raise UsageError("the name is an address: only files in the folder are read")
    if name.startswith(("/", "\\")) or name[1:3] in (":/", ":\\"):
        raise UsageError("the name is absolute: give one relative to the folder")
    if ".." in name.replace("\\", "/").split("/"):
        raise UsageError("the name leads out of the folder")


def open_item(root: Path, item: Item) -> BinaryIO:
    """The bytes of an item as a file of its own, read-only and seekable."""
    path, inside = (root / item.path).resolve(), root.resolve()
    if not path.is_relative_to(inside):
        raise UsageError("lies outside the folder")
    size, _ = _state_of(path, inside)
    if item.offset + item.size > size:
        raise UsageError("is shorter than when it was indexed")
    return io.BufferedReader(_Window(path, item.offset, item.size))


def read_item(root: Path, item: Item, limit: int) -> bytes:
    """The bytes of an item of at most `limit` bytes."""
    if item.size > limit:
        raise UsageError(f"{item.size} bytes are more than {limit}")
    with open_item(root, item) as file:
        return file.read()


class _Window(io.RawIOBase):
    """A part of a file. Decoders led in circles by lying headers run out of readings."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset, self._size, self._place = offset, size, 0
        self._left = _READINGS * size + _SPARE

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("a place before the start was asked for")
        self._place = start + offset
        return self._place

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = max(0, min(len(buffer), self._size - self._place))
        self._left -= count
        if self._left < 0:
            raise OSError("its headers lead in circles")
        self._file.seek(self._offset + self._place)
        count = self._file.readinto(memoryview(buffer)[:count]) or 0
        self._place += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _state_of(path: Path, inside: Path) -> tuple[int, int]:
    """Size and time of change of a regular file that is, or links to one, in a folder."""
    if path.is_symlink() and not path.resolve().is_relative_to(inside):
        raise UsageError("is a link that leads out of the folder")
    state = path.stat()
    if stat.S_ISDIR(state.st_mode):
        raise UsageError("is a link to a folder: these are not followed")
    if not stat.S_ISREG(state.st_mode):
        raise UsageError("is not a regular file")
    return state.st_size, state.st_mtime_ns

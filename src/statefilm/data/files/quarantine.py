"""Items found broken: counted, remembered in a file, and too many of them an error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from itertools import starmap
from pathlib import Path

from statefilm.data.files.entry import BadItem
from statefilm.errors import UsageError

__all__ = ["Quarantine"]


class Quarantine:
    """The bad items of a run, known to all its processes on machines that share a file.

    What is in the file counts until it is taken off, as `FileSamples` does with what was mended.

    Args:
        file: JSON lines of names and reasons, appended to; None remembers in this process alone.
        share: the part of the items that may be bad.
        least: fewer bad items than this are always let pass.

    Raises:
        UsageError: `share` is not in [0, 1].
    """

    def __init__(
        self, file: str | Path | None = None, *, share: float = 0.01, least: int = 5
    ) -> None:
        if not 0 <= share <= 1:
            raise UsageError(f"share {share} must be between 0 and 1")
        self.file = None if file is None else Path(file)
        self.share, self.least = share, least
        self._reasons: dict[str, str] = {}
        self._state: tuple[int, ...] = ()
        self.refresh()

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Name to reason."""
        return self._reasons

    def refresh(self) -> None:
        """Take in what other processes have found."""
        if self.file is None or not self.file.is_file():
            return
        found = self.file.stat()
        state = found.st_ino, found.st_size, found.st_mtime_ns
        if state != self._state:
            self._reasons |= _rows(self.file)
            self._state = state

    def forget(self, names: Collection[str]) -> None:
        """Take items off, in the file too."""
        if not names:
            return
        self.refresh()
        for name in names:
            self._reasons.pop(name, None)
        if self.file is None:
            return
        part = self.file.with_name(f".{self.file.name}.{os.getpid()}.part")
        try:
            part.write_bytes(b"".join(starmap(_line, self._reasons.items())))
            os.replace(part, self.file)
        finally:
            part.unlink(missing_ok=True)

    def add(self, name: str, reason: str, seen: int, total: int | None = None) -> None:
        """Remember a bad item.

        Args:
            seen: how many items all processes have seen so far.
            total: how many there are; None is `seen`. Of those seen so far, three standard
                deviations more than `share` may be bad: not all that are were to come first.

        Raises:
            UsageError: there are at least `least` bad items, and too many of those seen.
        """
        self.refresh()
        if name not in self._reasons:
            self._reasons[name] = reason
            self._append(_line(name, reason))
        bad = len(self)
        seen = max(seen, bad)  # substitutes are tried beyond the count of steps
        allowed = self.share * seen
        if seen < (total or 0):
            allowed += 3 * math.sqrt(allowed)
        if bad >= self.least and bad > allowed:
            name, reason = next(reversed(self._reasons.items()))
            where = f"; mend or remove all that {self.file} lists" if self.file else ""
            raise UsageError(
                f"{bad} of {seen} items are bad, more than {self.share:.1%}; "
                f"the last is {BadItem(name, reason)}{where}"
            )

    def _append(self, line: bytes) -> None:
        if self.file is None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            # One write to the end, so that the lines of several processes stay whole.
            handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:  # a full disk does not say where
            raise OSError(error.errno, error.strerror, str(self.file)) from None


def _line(name: str, reason: str) -> bytes:
    return (json.dumps({"name": name, "reason": reason}) + "\n").encode()


def _rows(file: Path) -> dict[str, str]:
    """Name to reason of all whole lines."""
    rows = {}
    for line in file.read_text("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
            rows[str(row["name"])] = str(row["reason"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # cut short when a run was killed; the item will be found again
    return rows

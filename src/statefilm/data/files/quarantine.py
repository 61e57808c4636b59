"""Items found broken: counted, remembered in a file, and too many of them an error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from statefilm.data.files.entry import BadItem
from statefilm.errors import UsageError

__all__ = ["Quarantine"]


class Quarantine:
    """The bad items of a run, known to all its processes on machines that share a file.

    Whoever mends the data deletes the file: what is in it counts.

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
        self._read()

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Name to reason."""
        return self._reasons

    def add(self, name: str, reason: str, seen: int, total: int | None = None) -> None:
        """Remember a bad item.

        Args:
            seen: how many items all processes have seen so far.
            total: how many there are; None is `seen`. Of those seen so far, three standard
                deviations more than `share` may be bad: not all that are were to come first.

        Raises:
            UsageError: there are at least `least` bad items, and too many of those seen.
        """
        self._read()  # what other processes found
        if name not in self._reasons:
            self._reasons[name] = reason
            self._append({"name": name, "reason": reason})
        bad = len(self)
        seen = max(seen, bad)  # substitutes are tried beyond the count of steps
        allowed = self.share * seen
        if seen < (total or 0):
            allowed += 3 * math.sqrt(allowed)
        if bad >= self.least and bad > allowed:
            name, reason = next(reversed(self._reasons.items()))
            where = "" if self.file is None else f"; all are in {self.file}"
            raise UsageError(
                f"{bad} of {seen} items are bad, more than {self.share:.1%}; "
                f"the last is {BadItem(name, reason)}{where}"
            )

    def _append(self, row: dict[str, str]) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(row) + "\n").encode()
        # One write to the end, so that the lines of several processes stay whole.
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def _read(self) -> None:
        if self.file is None or not self.file.is_file():
            return
        for line in self.file.read_text("utf-8", "replace").splitlines():
            try:
                row = json.loads(line)
                self._reasons.setdefault(str(row["name"]), str(row["reason"]))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # cut short when a run was killed; the item will be found again

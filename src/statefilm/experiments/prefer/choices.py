"""Choices on disk: JSON Lines, one appended as soon as it is made, the last of a pair counting."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from statefilm.errors import UsageError

CHOICES = ("a", "b", "equal")


@dataclass(frozen=True)
class Choice:
    """One judgement of one pair.

    Attributes:
        name: of the pair.
        preferred: one of `CHOICES`; "a" and "b" are systems, not sides.
        left: the system that stood on the left.
        seconds: from the pair's being shown to the choice.
        time: when, in seconds since 1970.
    """

    name: str
    preferred: str
    left: str
    seconds: float
    time: float


class ChoiceLog:
    """The choices of two systems, kept in a file whose first line names them.

    A last line that was cut off as it was written, by a full disk say, does not count, and the next
    choice takes its place.

    Args:
        path: of the file; made with the first choice.
        systems: what a and b are, as the first line has them.

    Raises:
        UsageError: the file is of other systems, or a line is not a choice.
    """

    def __init__(self, path: Path, systems: tuple[str, str]) -> None:
        self.path, self.systems = path, systems
        self._choices: dict[str, Choice] = {}
        if path.is_file():
            self._read()

    @property
    def choices(self) -> dict[str, Choice]:
        """The choice that counts for each pair, by the pair's name."""
        return dict(self._choices)

    def add(self, choice: Choice) -> None:
        """Append a choice; it is on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(json.dumps(self._head) + "\n")
            file.write(json.dumps(asdict(choice)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._choices[choice.name] = choice

    @property
    def _head(self) -> dict[str, str]:
        return dict(zip(("a", "b"), self.systems, strict=True))

    def _mend(self) -> None:
        """Have the file end in a whole line."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if content[whole:]:
            with self.path.open("r+b") as file:
                file.truncate(whole)
                file.seek(whole)
                file.write(content[whole:] + b"\n" if _parsed(content[whole:].decode()) else b"")

    def _read(self) -> None:
        head, *lines = self.path.read_text("utf-8").splitlines(keepends=True) or [""]
        if not lines and json.dumps(self._head).startswith(head) and not _parsed(head):
            return
        if lines and not lines[-1].endswith("\n") and not _parsed(lines[-1]):
            lines.pop()
        if _parsed(head) != self._head:
            raise UsageError(
                f"{self.path} holds choices between {head.strip() or 'nothing'}, not between "
                f"{json.dumps(self._head)}: give another folder, or remove it"
            )
        for number, line in enumerate(lines, start=2):
            choice = _choice(line)
            if choice is None:
                raise UsageError(f"{self.path}:{number}: {line.strip()!r} is not a choice")
            self._choices[choice.name] = choice


def _choice(line: str) -> Choice | None:
    try:
        choice = Choice(**_parsed(line))
    except TypeError:
        return None
    return choice if choice.preferred in CHOICES and choice.left in CHOICES[:2] else None


def _parsed(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}

"""The pairs to be judged: files of one name in two folders, in random order on random sides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from statefilm.errors import UsageError
from statefilm.pipelines.provenance import read_provenance

# What browsers show, by the ending of the file's name.
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}


@dataclass(frozen=True)
class Pair:
    """What two systems, a and b, made of one task.

    Attributes:
        name: of both files below their folders.
        left: the system that stands on the left, "a" or "b".
        prompt: what was asked for, where both files say the same.
    """

    name: str
    a: Path
    b: Path
    left: str = "a"
    prompt: str | None = None

    @property
    def right(self) -> str:
        """The system on the right."""
        return "b" if self.left == "a" else "a"

    def file(self, side: str) -> Path:
        """What stands on a side, "left" or "right"."""
        return self.a if (self.left if side == "left" else self.right) == "a" else self.b


def find_pairs(
    a: Path, b: Path, only: Collection[str] | None = None
) -> tuple[list[Pair], list[str]]:
    """Pairs of images or clips with the same name below two folders.

    Args:
        only: names of files that count, as if there were no others; None is all.

    Returns:
        The pairs, sorted by name, and the names that only one folder has.

    Raises:
        UsageError: a folder is missing, or they share no name.
    """
    names = [_media(folder) for folder in (a, b)]
    if only is not None:
        names = [found & set(only) for found in names]
    shared = sorted(names[0] & names[1])
    if not shared:
        endings = ", ".join(MEDIA_TYPES)
        raise UsageError(f"{a} and {b} have no file of the same name ending in {endings}")
    pairs = [Pair(name, a / name, b / name, prompt=_prompt(a / name, b / name)) for name in shared]
    return pairs, sorted(names[0] ^ names[1])


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The pairs in random order, each with a random system on the left.

    Side and place of a pair depend on the seed and its name alone, so that pairs that join later
    leave the others as they were.
    """

    def drawn(pair: Pair) -> tuple[float, str]:
        uniform = Random(f"{seed}:{pair.name}").random
        return uniform(), "a" if uniform() < 0.5 else "b"

    placed = sorted((drawn(pair), pair.name, pair) for pair in pairs)
    return [Pair(p.name, p.a, p.b, left, p.prompt) for (_, left), _, p in placed]


def _media(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of images or clips")
    files = (file for file in folder.rglob("*") if file.suffix.lower() in MEDIA_TYPES)
    return {file.relative_to(folder).as_posix() for file in files if file.is_file()}


def _prompt(*files: Path) -> str | None:
    """The prompt that all files carry; None where one has none or another."""
    found = set()
    for file in files:
        try:
            found.add(read_provenance(file).get("prompt"))
        except (ValueError, OSError):
            return None
    prompt = found.pop()
    return prompt if not found and isinstance(prompt, str) else None

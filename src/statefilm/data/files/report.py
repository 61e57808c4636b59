"""A user's data before training: what falls into which bucket, what does not, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from PIL import Image

from statefilm.data.files.buckets import Assignment, Bucket, assign, kept_share
from statefilm.data.files.entry import BadItem, Entry, Item, reason_of, refusing
from statefilm.data.files.listing import list_folder, open_item
from statefilm.data.files.probe import frame_names, kind_of
from statefilm.data.files.sheet import contact_sheet
from statefilm.data.files.source import Source
from statefilm.data.files.tables import is_table

__all__ = ["Report", "inspect"]

_EXAMPLES = 5  # names given for each reason
_CHUNK = 1 << 20
_CAPTIONS = (".txt", ".json")


@dataclass(frozen=True, slots=True)
class Report:
    """What `inspect` found.

    Attributes:
        source, assignment: what was inspected, and which entry falls into which bucket.
        fps: frames a second of clips.
        duplicates: names of entries with the same bytes, each group sorted; None if not sought.
        others: how many files there are of each suffix that holds no data, the commonest first.
        tables: that lie in the folder and were not read.
    """

    source: Source
    assignment: Assignment
    fps: float | None
    duplicates: tuple[tuple[str, ...], ...] | None
    others: Mapping[str, int]
    tables: tuple[str, ...] = ()

    @property
    def kinds(self) -> Counter[str]:
        """How many entries there are of each kind."""
        return Counter(entry.kind for entry in self.source.entries)

    @property
    def counts(self) -> dict[Bucket, int]:
        """How many entries fall into each bucket."""
        return {bucket: len(numbers) for bucket, numbers in self.assignment.members.items()}

    @property
    def uncaptioned(self) -> list[str]:
        """Names of the entries without a caption."""
        return [entry.name for entry in self.source.entries if not entry.captions]

    @property
    def dropped(self) -> dict[str, str]:
        """Name to reason of the entries that no bucket takes."""
        return {
            self.source.entries[number].name: why for number, why in self.assignment.dropped.items()
        }

    @property
    def short_sides(self) -> dict[str, int]:
        """Entries by the shorter side, in pixels."""
        return _histogram(min(entry.width, entry.height) for entry in self.source.entries)

    @property
    def lengths(self) -> dict[str, int]:
        """Clips by length, in frames."""
        return _histogram(entry.frames for entry in self.source.entries if entry.is_clip)

    def table(self) -> str:
        """All of it as lines of text."""
        source, uncaptioned = self.source, self.uncaptioned
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        lines = [f"{source.root}: {len(source.entries)} items ({kinds}), layout {source.layout}"]
        lines += [f"  bucket      {self._line(bucket)}" for bucket in self.assignment.members]
        lines += _bars("short side", self.short_sides, " px")
        lines += _bars("length", self.lengths, " frames")
        lines += _reasons("dropped", self.dropped)
        lines += _reasons("broken", source.refused)
        lines += [f"  uncaptioned {reason_of(name)}" for name in uncaptioned[:_EXAMPLES]]
        groups = (map(reason_of, group) for group in (self.duplicates or ())[:20])
        lines += [f"  the same    {', '.join(group)}" for group in groups]
        lines += [f"  passed over {count} {suffix}" for suffix, count in self.others.items()]
        lines += [f"  passed over {self._tables_line()}"] if self.tables else []
        lines.append(
            f"  {len(self.dropped)} dropped, {len(source.refused)} broken, "
            f"{len(uncaptioned)} without a caption"
        )
        if self.duplicates is not None:
            lines[-1] += f", {sum(len(group) - 1 for group in self.duplicates)} repeated"
        lines[-1] += "; contents are not decoded (statefilm data verify does)"
        return "\n".join(lines)

    def contact_sheet(self) -> Image.Image | None:
        """Some samples of each bucket as they will be trained on, with their captions.

        None if no bucket has a sample that can be read.
        """
        return contact_sheet(self.source, self.assignment, self.fps)

    def _tables_line(self) -> str:
        first = PurePosixPath(self.tables[0])
        hint = f"give the path {self.source.root / first}"
        named = str(first.with_name(f"metadata{first.suffix.lower()}"))
        if not self.source.tables and named not in self.tables and len(first.parts) <= 2:
            hint += f", or name it {named}"
        names = ", ".join(map(reason_of, self.tables[:_EXAMPLES]))
        count = len(self.tables)
        return f"{count} {'table' if count == 1 else 'tables'} ({names}): to use one, {hint}"

    def _line(self, bucket: Bucket) -> str:
        numbers = self.assignment.members[bucket]
        shares = [kept_share(self.source.entries[number], bucket) for number in numbers]
        cropped = 1 - sum(shares) / len(shares)
        return f"{bucket!s:14} {len(numbers):8d}   {cropped:4.0%} cropped"


def inspect(
    source: Source,
    buckets: Iterable[Bucket],
    *,
    fps: float | None = None,
    max_upscale: float = 1.5,
    stills: bool = False,
    duplicates: bool = False,
) -> Report:
    """What training on a source will see; the arguments are those of `assign`.

    Args:
        duplicates: also compare the contents of all items, which reads every byte.
    """
    assignment = assign(source.entries, buckets, fps=fps, max_upscale=max_upscale, stills=stills)
    same = _duplicates(source) if duplicates else None
    return Report(source, assignment, fps, same, *_passed_over(source))


def _passed_over(source: Source) -> tuple[dict[str, int], tuple[str, ...]]:
    """What a folder holds beside media and their captions: counts by suffix, and tables."""
    if source.layout not in ("folder", "imagefolder", "table"):
        return {}, ()
    names = [name for name in list_folder(source.root).files if kind_of(name) is None]
    tables = tuple(name for name in names if is_table(name) and name not in source.tables)
    counts = Counter(PurePosixPath(name).suffix.lower() for name in names if not is_table(name))
    others = {name: n for name, n in counts.most_common() if name and name not in _CAPTIONS}
    return others, tables


def _duplicates(source: Source) -> tuple[tuple[str, ...], ...]:
    groups: dict[bytes, list[str]] = {}
    for entry in source.entries:
        if entry.part is None:
            try:
                with refusing(entry.name):
                    groups.setdefault(_digest(source.root, entry), []).append(entry.name)
            except BadItem:
                continue  # training will meet and quarantine it
    return tuple(sorted(tuple(sorted(names)) for names in groups.values() if len(names) > 1))


def _digest(root: Path, entry: Entry) -> bytes:
    items: Sequence[Item] = [entry]
    if entry.kind == "frames":
        names = frame_names(root, entry.path)
        items = [Item(path=n, kind="image", size=(root / n).stat().st_size) for n in names]
    digest = blake2b()
    for item in items:
        with open_item(root, item) as file:
            while data := file.read(_CHUNK):
                digest.update(data)
    return digest.digest()


def _histogram(values: Iterable[int]) -> dict[str, int]:
    """Counts in ranges from a power of two to the next, rising."""
    counts = Counter(value.bit_length() - 1 for value in values)
    return {f"{1 << power}-{(2 << power) - 1}": counts[power] for power in sorted(counts)}


def _bars(title: str, histogram: Mapping[str, int], unit: str) -> list[str]:
    most = max(histogram.values(), default=1)
    return [
        f"  {title:11} {span + unit:18} {count:8d} {'#' * math.ceil(20 * count / most)}"
        for span, count in histogram.items()
    ]


def _reasons(title: str, reasons: Mapping[str, str]) -> list[str]:
    """Each reason with its count and some of the names."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return [
        f"  {title:11} {len(group)}: {why} ({', '.join(map(reason_of, group[:_EXAMPLES]))})"
        for why, group in sorted(names.items(), key=lambda pair: -len(pair[1]))
    ]

"""A contact sheet: a row for each bucket, with some of its samples as training will see them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from statefilm.data.files.buckets import Assignment, Bucket
from statefilm.data.files.entry import BadItem, Entry
from statefilm.data.files.load import load
from statefilm.data.files.source import Source

__all__ = ["contact_sheet"]

_SAMPLES = 4  # of each bucket
_ATTEMPTS = 5  # entries tried for one of them
_LONGEST = 192  # pixels of a picture's longer side; smaller ones are enlarged by a whole number
_NARROWEST = 120  # pixels of a cell, so that its caption has room
_LINES = 3  # of a caption
_GAP, _LINE = 8, 14  # pixels between things, and of a line of text
_BLACK, _GREY, _PALE = (0, 0, 0), (90, 90, 90), (210, 210, 210)


@dataclass(frozen=True, slots=True)
class _Cell:
    """A picture and the lines of text below it."""

    picture: Image.Image
    lines: tuple[str, ...]

    @property
    def width(self) -> int:
        return max(self.picture.width, _NARROWEST)


def contact_sheet(
    source: Source, assignment: Assignment, fps: float | None = None
) -> Image.Image | None:
    """Up to four samples of each bucket in a row, each with its caption; of clips a middle frame.

    None if no bucket has a sample that can be read.
    """
    rows = {
        f"{bucket}: {len(numbers)} {'item' if len(numbers) == 1 else 'items'}": cells
        for bucket, numbers in assignment.members.items()
        if (cells := list(_cells(source, bucket, numbers, fps)))
    }
    if not rows:
        return None
    heights = {title: _row_height(cells) for title, cells in rows.items()}
    width = max(sum(cell.width + _GAP for cell in cells) for cells in rows.values())
    sheet = Image.new("RGB", (width + _GAP, sum(heights.values()) + _GAP), "white")
    draw, top = ImageDraw.Draw(sheet), _GAP
    for title, cells in rows.items():
        draw.text((_GAP, top), title, fill=_BLACK)
        left, high = _GAP, top + _LINE + _GAP // 2
        for cell in cells:
            _draw(sheet, draw, cell, left, high)
            left += cell.width + _GAP
        top += heights[title]
    return sheet


def _draw(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: _Cell, left: int, top: int) -> None:
    width, height = cell.picture.size
    # A frame, for white pictures.
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_PALE)
    sheet.paste(cell.picture, (left, top))
    for number, line in enumerate(cell.lines):
        draw.text((left, top + height + _GAP // 2 + number * _LINE), line, fill=_GREY)


def _row_height(cells: Sequence[_Cell]) -> int:
    lines = max(len(cell.lines) for cell in cells)
    return _LINE + cells[0].picture.height + lines * _LINE + 3 * _GAP


def _cells(
    source: Source, bucket: Bucket, numbers: Sequence[int], fps: float | None
) -> Iterator[_Cell]:
    """From each part of a bucket the first sample that can be read."""
    for part in range(_SAMPLES):
        ends = (len(numbers) * part // _SAMPLES, len(numbers) * (part + 1) // _SAMPLES)
        for number in numbers[slice(*ends)][:_ATTEMPTS]:
            entry = source.entries[number]
            try:
                picture = _picture(source, entry, bucket, fps)
            except BadItem:
                continue
            width = max(picture.width, _NARROWEST)
            yield _Cell(picture, tuple(_wrapped(entry.caption(0) or "(no caption)", width)))
            break


def _picture(source: Source, entry: Entry, bucket: Bucket, fps: float | None) -> Image.Image:
    """The middle frame of an entry in its bucket's size, or nearly so."""
    frames = load(
        source.root,
        entry,
        bucket.size,
        num_frames=bucket.num_frames,
        fps=fps,
        limits=source.limits,
    )
    picture = Image.fromarray(frames[:, bucket.num_frames // 2].permute(1, 2, 0).numpy())
    times = _LONGEST // max(bucket.size)
    if times > 1:
        return picture.resize((bucket.width * times, bucket.height * times), Image.Resampling.BOX)
    picture.thumbnail((_LONGEST, _LONGEST))
    return picture


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines of a width in pixels; what there is no room for is cut."""
    font = ImageFont.load_default()
    # The built-in font knows English letters only.
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    words = plain.encode("ascii", "replace").decode().split()
    lines = [""]
    while words:
        word = words.pop(0)
        wanted = f"{lines[-1]} {word}".lstrip()
        if font.getlength(wanted) <= width:
            lines[-1] = wanted
        elif lines[-1]:
            lines.append("")
            words.insert(0, word)
        else:  # a word wider than a line
            fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            lines[-1] = word[:fits]
            words.insert(0, word[fits:])
        if len(lines) > _LINES:
            break
    if len(lines) <= _LINES:
        return lines
    last = lines[_LINES - 1]
    while font.getlength(f"{last}...") > width:
        last = last[:-1]
    return [*lines[: _LINES - 1], f"{last}..."]

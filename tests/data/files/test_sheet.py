"""Contact sheets: which samples they show, where, and that captions keep to their cells."""

import numpy as np
import pytest

from statefilm.data.files import assign, make_buckets, open_source
from statefilm.data.files.sheet import contact_sheet

SQUARES = make_buckets(64 * 64, 8, ratios=(1,))
GAP, LINE, CELL = 8, 14, 192  # of the sheet; 64 pixels are drawn three times as large


def sheet_of(folder, buckets=SQUARES):
    source = open_source(folder)
    return source, contact_sheet(source, assign(source.entries, buckets))


def middles(sheet, size=CELL):
    """The colours in the middle of the cells of the first row."""
    lefts, middle = range(GAP, sheet.width - GAP, size + GAP), GAP + LINE + GAP // 2 + size // 2
    return [sheet.getpixel((left + size // 2, middle)) for left in lefts]


def test_four_samples_from_all_over_a_bucket(tmp_path, save_image):
    for number in range(20):
        save_image(tmp_path / f"{number:02d}.png", (64, 64), (10 * number, 0, 0))
    _, sheet = sheet_of(tmp_path)
    assert sheet.width == GAP + 4 * (CELL + GAP)
    assert middles(sheet) == [(10 * number, 0, 0) for number in (0, 5, 10, 15)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_are_all_shown_and_no_room_is_left_for_others(tmp_path, save_image, count):
    for number in range(count):
        save_image(tmp_path / f"{number}.png", (64, 64), (50 * number, 0, 0))
    _, sheet = sheet_of(tmp_path)
    assert sheet.width == GAP + count * (CELL + GAP)
    assert middles(sheet) == [(50 * number, 0, 0) for number in range(count)]


def test_a_sample_that_cannot_be_read_is_passed_over(tmp_path, save_image):
    for number in range(8):
        save_image(tmp_path / f"{number}.png", (64, 64), (30 * number, 0, 0))
    source = open_source(tmp_path)
    for number in (2, 6, 7):
        (tmp_path / f"{number}.png").write_bytes(b"")
    sheet = contact_sheet(source, assign(source.entries, SQUARES))
    assert middles(sheet) == [(30 * number, 0, 0) for number in (0, 3, 4)]
    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"")
    assert contact_sheet(source, assign(source.entries, SQUARES)) is None


def test_a_row_for_each_bucket_as_high_as_what_it_holds(tmp_path, save_image, save_clip):
    save_image(tmp_path / "a.png", (64, 64), (250, 0, 0))
    save_image(tmp_path / "b.png", (128, 32), (0, 0, 250))
    save_image(tmp_path / "c.png", (1024, 1024), (0, 250, 0))
    save_clip(tmp_path / "d.mp4", frames=20, size=(64, 64))
    buckets = make_buckets(64 * 64, 8, ratios=(1, 4), lengths=(1, 5))
    source, sheet = sheet_of(tmp_path, buckets)
    members = assign(source.entries, buckets).members
    assert [(str(bucket), len(numbers)) for bucket, numbers in members.items()] == [
        *(("128x32", 1), ("64x64", 2), ("64x64x5", 1))
    ]
    rows = [LINE + height + LINE + 3 * GAP for height in (32, CELL, CELL)]
    assert sheet.size == (GAP + 2 * (CELL + GAP), sum(rows) + GAP)
    top = GAP + LINE + GAP // 2
    assert sheet.getpixel((GAP, top)) == (0, 0, 250)
    assert sheet.getpixel((GAP, top + rows[0])) == (250, 0, 0)
    assert sheet.getpixel((GAP + CELL + GAP, top + rows[0])) == (0, 250, 0)
    level = sheet.getpixel((GAP + CELL // 2, top + rows[0] + rows[1] + CELL // 2))[0]
    assert abs(level - 24) < 6, "of a clip the frame in the middle"


@pytest.mark.parametrize(
    ("caption", "lines"),
    [
        ("", 1),
        ("short", 1),
        ("a caption that is somewhat longer than its cell", 2),
        ("one of so many words that they do not find room in their three lines. " * 9, 3),
        ("w" * 300, 3),
        ("i" * 300, 3),
        ("\u4e2d\u6587 \u00fcber \U0001f600", 1),
    ],
)
def test_captions_stay_in_their_cells(tmp_path, save_image, caption, lines):
    for number in range(3):
        save_image(tmp_path / f"{number}.png", (32, 96))
        (tmp_path / f"{number}.txt").write_text(caption, "utf-8")
    _, sheet = sheet_of(tmp_path, make_buckets(32 * 96, 8, ratios=(1 / 3,)))
    narrow = 120  # a cell is wider than its picture of 64
    assert sheet.size == (GAP + 3 * (narrow + GAP), LINE + 192 + lines * LINE + 4 * GAP)
    pixels = np.asarray(sheet.convert("L"))
    captions = pixels[GAP + LINE + GAP // 2 + 192 + 2 :]
    for left in range(0, sheet.width, narrow + GAP):
        assert (captions[:, left + 2 : left + GAP - 2] == 255).all()
    first = captions[:, GAP : GAP + narrow]
    written = [(first[n * LINE : (n + 1) * LINE + 2] < 255).any() for n in range(lines)]
    assert all(written)
    assert (captions[-GAP:] == 255).all()

"""Reports: what the table and the contact sheet say about a folder."""

import pytest

from statefilm.data.files import Bucket, inspect, make_buckets, open_source


@pytest.fixture
def report(tmp_path, save_image, save_clip):
    save_image(tmp_path / "red.png", (32, 32), (250, 0, 0))
    save_image(tmp_path / "twin.png", (32, 32), (250, 0, 0))
    save_image(tmp_path / "wide.png", (128, 33), (0, 0, 250))
    save_image(tmp_path / "tiny.png", (8, 8))
    (tmp_path / "red.txt").write_text("a red card")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "a.heic").write_bytes(b"of another kind")
    save_clip(tmp_path / "clip.mp4", frames=20)
    save_clip(tmp_path / "short.mp4", frames=3)
    buckets = make_buckets(32 * 32, 8, ratios=(1, 2), lengths=(1, 5))
    return inspect(open_source(tmp_path), buckets, duplicates=True)


def test_a_report_counts_what_falls_where(report):
    square = Bucket(1, 32, 32)
    assert report.counts[square] == 2 and sum(report.counts.values()) == 4
    assert report.dropped == {
        "short.mp4": "gives 3 frames, less than 5",
        "tiny.png": report.dropped["tiny.png"],
    }
    assert "enlarged" in report.dropped["tiny.png"]
    assert report.kinds == {"image": 4, "video": 2}
    assert len(report.uncaptioned) == 5 and "red.png" not in report.uncaptioned
    assert report.duplicates == (("red.png", "twin.png"),)
    assert report.short_sides == {"8-15": 1, "16-31": 2, "32-63": 3}
    assert report.lengths == {"2-3": 1, "16-31": 1}


def test_the_table_says_all_of_it(report):
    table = report.table()
    assert "6 items (4 image, 2 video), layout folder" in table
    assert "32x32                 2     0% cropped" in table
    assert "dropped     1: gives 3 frames, less than 5 (short.mp4)" in table
    assert "broken      1: cannot identify" in table and "(broken.png)" in table
    assert "the same    red.png, twin.png" in table
    assert "passed over 1 .heic" in table
    summary = table.splitlines()[-1]
    assert summary.startswith("  2 dropped, 1 broken, 5 without a caption, 1 repeated; ")
    assert summary.endswith("contents are not decoded (statefilm data verify does)")
    assert all(len(line) < 300 for line in table.splitlines())


def passed_over(path):
    buckets = make_buckets(32 * 32, 8, ratios=(1,))
    lines = inspect(open_source(path), buckets).table().splitlines()
    return [line.removeprefix("  passed over ") for line in lines if "passed over" in line]


def test_tables_that_were_not_read_are_named_with_what_would_use_them(tmp_path, save_image):
    save_image(tmp_path / "a.png", (32, 32))
    (tmp_path / "captions.csv").write_text("path,caption\na.png,a\n")
    (tmp_path / "a.json").write_text('"beside"')
    (line,) = passed_over(tmp_path)
    assert line == (
        f"1 table (captions.csv): to use one, give the path {tmp_path}/captions.csv, "
        "or name it metadata.csv"
    )
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "list.jsonl").write_text("{}")
    (tmp_path / "notes.md").write_text("notes")
    markdown, line = passed_over(tmp_path)
    assert markdown == "1 .md" and line.startswith("2 tables (captions.csv, deep/er/list.jsonl): ")
    (tmp_path / "captions.csv").unlink()
    assert passed_over(tmp_path)[1] == (
        f"1 table (deep/er/list.jsonl): to use one, give the path {tmp_path}/deep/er/list.jsonl"
    )


def test_a_table_that_is_read_is_not_passed_over(tmp_path, save_image):
    save_image(tmp_path / "a.png", (32, 32))
    (tmp_path / "metadata.csv").write_text("path,caption\na.png,a\n")
    assert passed_over(tmp_path) == []
    (tmp_path / "other.csv").write_text("path,caption\na.png,a\n")
    hint = "to use one, give the path"
    assert passed_over(tmp_path) == [f"1 table (other.csv): {hint} {tmp_path}/other.csv"]
    (line,) = passed_over(tmp_path / "other.csv")
    assert line == f"1 table (metadata.csv): {hint} {tmp_path}/metadata.csv"


def test_names_do_not_reach_a_terminal_as_they_are(tmp_path, save_image):
    name = "a\udce9\x1b[31m.png"
    save_image(tmp_path / "b.png")
    (tmp_path / name).write_bytes((tmp_path / "b.png").read_bytes())
    table = inspect(open_source(tmp_path), make_buckets(32 * 32, 8, ratios=(1,))).table()
    assert "a??[31m.png" in table
    table.encode("utf-8")


def test_a_report_without_duplicates_does_not_speak_of_them(tmp_path, save_image):
    save_image(tmp_path / "a.png", (32, 32))
    report = inspect(open_source(tmp_path), make_buckets(32 * 32, 8, ratios=(1,)))
    assert report.duplicates is None and "repeated" not in report.table()

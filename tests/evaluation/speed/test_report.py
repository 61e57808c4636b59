"""Tables, numbers in them, and the files."""

import json
from importlib.util import find_spec

import pytest
import torch

from statefilm.evaluation.speed import machine
from statefilm.evaluation.speed.report import (
    FILES,
    Report,
    markdown,
    milliseconds,
    percent,
    size,
)

ROWS = {
    "ops": [
        {
            "pass": name,
            "length": length,
            "op": "sdpa",
            "seconds": 0.01 * length,
            "spread": 0.05,
            "seconds_per_token": 0.01,
            "ratio": None,
            "of_floor": 0.5,
            "peak_bytes": None,
        }
        for name in ("forward", "forward+backward")
        for length in (16, 32)
    ],
    "generate": [
        {
            "kind": "image",
            "label": "image x 1",
            "batch": 1,
            "steps": 2,
            "seconds": 1.0,
            "spread": 0.0,
            "seconds_per_sample": 1.0,
            "ratio": 1.0,
            "parts": {"text": 0.1, "denoise": 0.7, "decode": 0.1, "save": 0.1},
            "weight_bytes": 2**20,
            "peak_bytes": 2**20,
        }
    ],
}


def report(bench):
    return Report(bench, machine.describe(torch.device("cpu")), {"rounds": 1}, ROWS[bench])


@pytest.mark.parametrize("bench", ROWS)
def test_files(bench, tmp_path):
    written = report(bench).write(tmp_path / "new")
    has_plot = find_spec("matplotlib") is not None
    assert [path.name for path in written] == list(FILES if has_plot else FILES[:2])
    results, table = (path.read_text("utf-8") for path in written[:2])
    assert json.loads(results)["rows"] == ROWS[bench]
    assert table.startswith("Measured with statefilm ")
    assert all(path.stat().st_size for path in written)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    for bench in ROWS:
        with Image.open(report(bench).write(tmp_path / bench)[2]) as picture:
            assert min(picture.size) > 300


def test_markdown_columns_are_aligned():
    rows = [{"a": "x"}, {"a": "long"}]
    lines = list(markdown([("b", lambda row: row["a"]), ("c", lambda row: "1")], rows))
    assert lines == ["| b    | c |", "|------|---|", "| x    | 1 |", "| long | 1 |"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (milliseconds(1.23456), "1230"),
        (milliseconds(0.0123456), "12.3"),
        (milliseconds(1e-6), "0.001"),
        (milliseconds(None), "-"),
        (percent(0.254), "25 %"),
        (percent(1.234), "120 %"),
        (size(3 * 2**20), "3"),
        (size(None), "-"),
    ],
)
def test_numbers(text, expected):
    assert text == expected

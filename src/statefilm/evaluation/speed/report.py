"""What a benchmark hands back: rows, a table in markdown, and the files results, table and plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from statefilm.evaluation.speed import machine as machines
from statefilm.evaluation.speed.memory import COUNTED

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]

FILES = ("results.json", "table.md", "plot.png")
NO_PLOT = "no plot.png: it needs matplotlib, pip install 'statefilm[plots]'"


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a benchmark.

    Attributes:
        bench: "ops", "denoiser" or "generate".
        machine: what `machine.describe` says.
        settings: how was measured.
        rows: one for each figure, plain data; times in seconds, memory in bytes.
        left_out: what was not measured, and "why".
        summary: what follows from all rows together.
        notes: the summary in words.
    """

    bench: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row]
    left_out: list[Row] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def memory_counted(self) -> str:
        """What the peaks of this device count."""
        return COUNTED.get(self.machine["device"].split(":")[0], "not known on this device")

    def as_dict(self) -> dict[str, Any]:
        """All but the notes, ready for JSON."""
        names = ("bench", "machine", "settings", "memory_counted", "rows", "left_out", "summary")
        return {name: getattr(self, name) for name in names}

    def table(self) -> str:
        """The machine, a table for each group of rows, and the notes, in markdown."""
        group, columns = TABLES[self.bench]
        lines = [f"Measured with {machines.line(self.machine)}.", "", self._settings(), ""]
        for name, rows in groupby(self.rows, key=lambda row: row[group]):
            lines += [f"### {name}", "", *markdown(columns, list(rows)), ""]
        lines += [f"- {note}" for note in [*self.notes, f"peak MiB: {self.memory_counted}"]]
        lines += [f"- left out: {_what(row)}: {row['why']}" for row in self.left_out]
        return "\n".join(lines).rstrip()

    def write(self, folder: str | Path) -> list[Path]:
        """Write `FILES` into a folder; the plot only where matplotlib is installed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        results, table, plot = (folder / name for name in FILES)
        results.write_text(json.dumps(self.as_dict(), indent=2) + "\n", "utf-8")
        table.write_text(self.table() + "\n", "utf-8")
        if find_spec("matplotlib") is None or not self.rows:
            return [results, table]
        from statefilm.evaluation.speed.plot import save

        save(self.bench, self.rows, plot)
        return [results, table, plot]

    def _settings(self) -> str:
        given = {key: value for key, value in self.settings.items() if value is not None}
        parts = (f"{key} {_plain(value)}" for key, value in given.items())
        return f"Settings: {'; '.join(parts)}."


def table_file(
    folder: Path, origin: str, device: torch.device, rows: Sequence[dict[str, str]]
) -> str:
    """Write rows of a script's own as `tables.md`, with where they come from, and return its text.

    Args:
        folder: made where it is not there.
        origin: begins the line that ends in the machine: "measured with".
        device: what was measured on.
        rows: texts by column; "-" stands where a row has none.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    whole = [dict.fromkeys(keys, "-") | row for row in rows]
    columns = [(key, itemgetter(key)) for key in keys]
    here = machines.line(machines.describe(device))
    text = "\n".join([f"{origin} {here}.", "", *markdown(columns, whole), ""])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text(text, "utf-8")
    return text


def markdown(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a markdown table, its columns padded so that it reads as text too."""
    cells = [[heading for heading, _ in columns]]
    cells += [[cell(row) for _, cell in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for index, line in enumerate(cells):
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield f"| {' | '.join(padded)} |"
        if index == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def milliseconds(seconds: float | None) -> str:
    """Three significant digits, never with an exponent."""
    return _digits(None if seconds is None else 1e3 * seconds)


def size(count: float | None) -> str:
    """Bytes in MiB."""
    return "-" if count is None else _digits(count / 2**20)


def percent(share: float | None) -> str:
    """0.254 as "25 %"; two significant digits."""
    return "-" if share is None else f"{_digits(100 * share, 2)} %"


def _digits(number: float | None, significant: int = 3) -> str:
    if number is None:
        return "-"
    rounded = float(f"{number:.{significant}g}")
    return f"{rounded:.0f}" if abs(rounded) >= 100 else f"{rounded:.6g}"


def _ratio(row: Row) -> str:
    return _digits(row["ratio"])


def _parts(row: Row) -> str:
    """The parts of a step by their share, largest first."""
    parts = sorted(row["parts"].items(), key=lambda part: -part[1])
    whole = sum(row["parts"].values())
    return ", ".join(f"{name} {100 * seconds / whole:.0f} %" for name, seconds in parts) or "-"


def _stage(name: str) -> Column:
    return f"{name} ms", lambda row: milliseconds(row["parts"][name])


def _what(row: Row) -> str:
    named = (row.get(key) for key in ("op", "model", "kind", "pass", "size"))
    words = [str(value) for value in named if value is not None]
    return " ".join(words) + (f" at {row['length']}" if row.get("length") else "")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


_TIME: list[Column] = [
    ("ms", lambda row: milliseconds(row["seconds"])),
    ("spread", lambda row: percent(row["spread"])),
]
_PEAK: Column = ("peak MiB", lambda row: size(row["peak_bytes"]))

# What the rows are grouped by, and the columns.
TABLES: dict[str, tuple[str, list[Column]]] = {
    "ops": (
        "pass",
        [
            ("length", lambda row: str(row["length"])),
            ("op", lambda row: row["op"]),
            *_TIME,
            ("us a token", lambda row: _digits(1e6 * row["seconds_per_token"])),
            ("x quasiseparable", _ratio),
            ("of the floor", lambda row: percent(row["of_floor"])),
            _PEAK,
        ],
    ),
    "denoiser": (
        "size",
        [
            ("pass", lambda row: row["pass"]),
            ("model", lambda row: row["model"]),
            ("blocks", lambda row: str(row["blocks"])),
            ("tokens", lambda row: f"{row['batch']} x {row['tokens']}"),
            *_TIME,
            ("x first", _ratio),
            ("of matmul rate", lambda row: percent(row["of_matmul_rate"])),
            ("weights MiB", lambda row: size(row["weight_bytes"])),
            _PEAK,
            ("where", _parts),
        ],
    ),
    "generate": (
        "kind",
        [
            ("batch", lambda row: str(row["batch"])),
            ("steps", lambda row: str(row["steps"])),
            *_TIME,
            ("ms a sample", lambda row: milliseconds(row["seconds_per_sample"])),
            ("x first", _ratio),
            *map(_stage, ("text", "denoise", "decode", "save")),
            ("weights MiB", lambda row: size(row["weight_bytes"])),
            _PEAK,
        ],
    ),
}

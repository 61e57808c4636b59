"""The rows of a benchmark as a picture; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PANEL = (6.4, 4.4)  # inches


def save(bench: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Lines over the length for ops; bars of parts for denoisers and generations."""
    key = {"ops": "pass", "denoiser": "size", "generate": "kind"}[bench]
    panels = [(name, list(group)) for name, group in groupby(rows, key=lambda row: row[key])]
    figure = Figure(figsize=(PANEL[0] * len(panels), PANEL[1]), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, group) in zip(axes, panels, strict=True):
        axis.set_title(str(name))
        (_lines if bench == "ops" else _bars)(axis, group)
    figure.savefig(path, dpi=120)


def _lines(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    for op in dict.fromkeys(row["op"] for row in rows):
        own = [row for row in rows if row["op"] == op]
        milliseconds = [1e3 * row["seconds"] for row in own]
        axis.plot([row["length"] for row in own], milliseconds, marker="o", label=op)
    lengths = sorted({row["length"] for row in rows})
    axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms")
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=45)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()


def _bars(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """One bar a row; parts that were timed apart are scaled to the whole."""
    names = dict.fromkeys(name for row in rows for name in (row["parts"] or {"whole": 1.0}))
    labels = [row["label"] for row in rows]
    left = [0.0] * len(rows)
    for name in names:
        widths = []
        for row in rows:
            parts = row["parts"] or {"whole": 1.0}
            widths.append(row["seconds"] * parts.get(name, 0.0) / sum(parts.values()))
        axis.barh(labels, widths, left=left, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set_xlabel("s")
    axis.invert_yaxis()
    axis.legend()

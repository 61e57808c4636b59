"""What runs learnt: python benchmarks/training_curves.py FOLDER RUN [RUN ...].

The losses of runs in the order in which they were trained, as `curves.png`, what each took and
reached, as `tables.md`, and the last samples of each, a row a run, as `samples.png`; all of it is
from the runs' own folders.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import torch
from matplotlib.figure import Figure
from PIL import Image

from statefilm.evaluation.speed.report import table_file
from statefilm.pipelines.media import spread

Lines = list[dict[str, Any]]
LAST = 10  # lines of a log that its last loss is the mean of
SCORES = "world/"
FRAMES = 5  # of a clip that are shown


def main(args: list[str] | None = None) -> int:
    """Write the plot and the table, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    asked = parser.parse_args(args)
    logs = {}
    for run in asked.runs:
        path = run / "logs" / "metrics.jsonl"
        if not path.is_file():
            parser.error(f"{path} is not there: name the folder of a run")
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if not any("loss" in line for line in lines):
            parser.error(f"{path} has no loss yet")
        logs[run.name] = lines
    rows = [row_of(name, lines) for name, lines in logs.items()]
    origin = "From the logs of the runs, read with"
    text = table_file(asked.folder, origin, torch.device("cpu"), rows)
    draw(logs, asked.folder / "curves.png")
    draw_samples(asked.runs, asked.folder / "samples.png")
    print(text)
    return 0


def row_of(name: str, lines: Lines) -> dict[str, str]:
    """What a run took, where its losses ended, and what it last scored on the world."""
    steps = [line for line in lines if "loss" in line]
    last = steps[-LAST:]
    kinds = sorted({key for line in last for key in line if key.startswith("loss")})
    row = {
        "run": name,
        "minutes": f"{steps[-1]['seconds'] / 60:.0f}",
        "steps": f"{steps[-1]['step']}",
        "samples": f"{steps[-1]['samples']}",
    }
    for kind in kinds:
        found = [line[kind] for line in last if kind in line]
        row[kind.replace("_", " ")] = f"{sum(found) / len(found):.4f}"
    scores = {k: v for line in lines for k, v in line.items() if k.startswith(SCORES)}
    return row | {key.removeprefix(SCORES): f"{value:.2f}" for key, value in scores.items()}


def draw(logs: dict[str, Lines], path: Path) -> None:
    """One line a run and kind of data, one run after the other along the minutes."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis = figure.subplots()
    ends = [
        max(line["seconds"] for line in lines if "loss" in line) / 60 for lines in logs.values()
    ]
    for (name, lines), start in zip(logs.items(), accumulate([0.0, *ends]), strict=False):
        for kind, style in (("loss_image", "-"), ("loss_video", "--")):
            points = [(start + x["seconds"] / 60, x[kind]) for x in lines if kind in x]
            if points:
                label = f"{name}, {kind.removeprefix('loss_')}s"
                axis.plot(*zip(*points, strict=True), style, lw=1, label=label)
        axis.axvline(start, color="black", lw=0.5, alpha=0.3)
    axis.set(xlabel="minutes", ylabel="training loss", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def draw_samples(runs: Sequence[Path], path: Path) -> None:
    """The last samples of each run that has some: images, or frames of clips side by side."""
    rows = {run.name: last_samples(run / "samples") for run in runs}
    rows = {name: pictures for name, pictures in rows.items() if pictures}
    if not rows:
        return
    figure = Figure(figsize=(7.2, 1.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), FRAMES, squeeze=False)
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        row[0].set_title(name, fontsize=8, loc="left")
        for axis in row:
            axis.set_axis_off()
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture, interpolation="nearest")
    figure.savefig(path, dpi=120)


def last_samples(folder: Path) -> list[Image.Image]:
    """One picture, or `FRAMES` of a clip from the first to the last."""
    files = sorted(folder.glob("step-*.*"))
    if not files:
        return []
    if files[-1].suffix == ".png":
        with Image.open(files[-1]) as picture:
            return [picture.convert("RGB")]
    with av.open(str(files[-1])) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frames[number] for number in spread(len(frames), FRAMES)]


if __name__ == "__main__":
    sys.exit(main())

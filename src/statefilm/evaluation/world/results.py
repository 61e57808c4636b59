"""What an evaluation hands back: figures with their intervals and floors, a table, samples."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from statefilm.evaluation.world.statistics import mean_interval, wilson_interval

SUBSETS = ("seen", "heldout")
_BORDER = 2  # pixels between the pictures of a grid


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure, in [0, 1] unless its name says otherwise.

    Attributes:
        low, high: its 95 % interval.
        n: how many images or clips it rests on; 0 where none could be judged.
        floor: its value for the same images under shuffled prompts, where its maker says no other.
    """

    value: float
    low: float
    high: float
    n: int
    floor: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture kept to be looked at: uint8 [3, H, W] (a clip as a strip of frames).

    Attributes:
        frames: all of it, uint8 [T, 3, H, W].
        strict: how far it is right by its task's verdict, 0 to 1.
        soft: how far it agrees with its prompt, 0 to 1.
        seed: it was made from.
    """

    prompt: str
    image: torch.Tensor
    frames: torch.Tensor | None = None
    strict: float | None = None
    soft: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """The outcome of a protocol.

    Attributes:
        metrics: figures by their names, such as "colors.strict" or "colors.strict.heldout".
        oracle: what rendered truth scores in place of the generated pictures, by the same names.
        samples: a few pictures by name, such as "colors.best" and "colors.worst".
        details: how the figures were made; goes into the file as it is.
        blank: what pictures of nothing score, by the names of the figures.
    """

    metrics: dict[str, Metric]
    oracle: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    blank: dict[str, float] = field(default_factory=dict)

    def __or__(self, other: Results) -> Results:
        """Both together."""
        return Results(
            self.metrics | other.metrics,
            self.oracle | other.oracle,
            self.samples | other.samples,
            self.details | other.details,
            self.blank | other.blank,
        )

    def as_dict(self) -> dict[str, Any]:
        """All but the samples, ready for JSON."""
        return {
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "oracle": self.oracle,
            "blank": self.blank,
            "details": self.details,
        }

    def table(self) -> str:
        """A text table, one line for each figure, its seen and held-out parts beside it."""
        names = [name for name in self.metrics if not name.endswith(SUBSETS)]
        width = max(map(len, ["metric", *names]))
        ends = "floor  blank  oracle   seen  heldout"
        head = f"{'metric':{width}}  value  95 % interval       n  {ends}"
        return "\n".join([head, *(self._line(name, width) for name in names)])

    def write(self, folder: str | Path) -> Path:
        """Writes `results.json` and a grid of each list of samples; returns the JSON file's path.

        The file's "samples" names each grid's prompts, row by row.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        listed = {}
        for name, samples in self.samples.items():
            if samples:
                grid([sample.image for sample in samples]).save(folder / f"{name}.png")
                listed[f"{name}.png"] = [sample.prompt for sample in samples]
        content = self.as_dict() | {"samples": listed}
        path = folder / "results.json"
        part = path.with_suffix(".part")  # what is cut off is not taken for results
        part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        os.replace(part, path)
        return path

    def _line(self, name: str, width: int) -> str:
        metric = self.metrics[name]
        parts = [self.metrics.get(f"{name}.{subset}") for subset in SUBSETS]
        others = (self.blank, self.oracle)
        blank, oracle, seen, heldout = (
            "-" if value is None else f"{value:.3f}"
            for value in (
                *(other.get(name) for other in others),
                *(part and part.value for part in parts),
            )
        )
        if metric.n == 0:
            return f"{name:{width}}  nothing could be judged"
        return (
            f"{name:{width}}  {metric.value:.3f}  {metric.low:.3f} to {metric.high:.3f}"
            f"{metric.n:7d}  {metric.floor:.3f}  {blank:>5}  {oracle:>6}  {seen:>5}  {heldout:>7}"
        )


def proportion(verdicts: Sequence[float], floor: float) -> Metric:
    """The part of verdicts that are true, or a mean of scores in [0, 1], with Wilson's interval."""
    right, total = sum(verdicts), len(verdicts)
    return Metric(right / total, *wilson_interval(right, total), total, floor)


def mean(metrics: Sequence[Metric]) -> Metric:
    """The unweighted mean of independent figures."""
    return Metric(
        sum(metric.value for metric in metrics) / len(metrics),
        *mean_interval([(metric.value, metric.low, metric.high) for metric in metrics]),
        sum(metric.n for metric in metrics),
        sum(metric.floor for metric in metrics) / len(metrics),
    )


def grid(images: Sequence[torch.Tensor], columns: int = 4) -> Image.Image:
    """Pictures of one size, uint8 [3, H, W], row by row on white."""
    height, width = images[0].shape[1:]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (columns * (width + _BORDER) - _BORDER, rows * (height + _BORDER) - _BORDER)
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        corner = (column * (width + _BORDER), row * (height + _BORDER))
        sheet.paste(Image.fromarray(image.permute(1, 2, 0).cpu().numpy()), corner)
    return sheet

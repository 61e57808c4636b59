"""What a run says while it goes: metrics as JSON lines and TensorBoard scalars, and progress."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

__all__ = ["Logs", "Meter"]


class Meter:
    """Means since the last reading; its state travels in checkpoints."""

    def __init__(self, state: Mapping[str, list[float]] | None = None) -> None:
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
        self._sums.update({name: list(pair) for name, pair in (state or {}).items()})

    def add(self, **values: float) -> None:
        """Take in one value of each name."""
        for name, value in values.items():
            self._sums[name][0] += value
            self._sums[name][1] += 1

    def read(self) -> dict[str, float]:
        """The means by name; starts anew."""
        means = {name: total / count for name, (total, count) in sorted(self._sums.items())}
        self._sums.clear()
        return means

    def state(self) -> dict[str, list[float]]:
        """What the constructor takes."""
        return {name: list(pair) for name, pair in self._sums.items()}


class Logs:
    """Writers of one run, used as a context.

    Args:
        run: the run folder: `logs/metrics.jsonl` is always written, TensorBoard's events where
            the package is installed; None writes nothing.
        start: the step it starts at; lines of later steps, of an interrupted run, are dropped.
        stop: the step it ends at.
        quiet: no words on stderr; else a bar where it is a terminal, and plain lines elsewhere.
    """

    def __init__(self, run: Path | None, start: int, stop: int, quiet: bool = False) -> None:
        self._file = None if run is None else run / "logs" / "metrics.jsonl"
        self._board = None
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            _drop_after(self._file, start)
            self._board = _tensorboard(self._file.parent, start)
        self._stop, self._quiet = stop, quiet
        self._bar = tqdm(
            total=stop,
            initial=start,
            disable=quiet or not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt}{postfix}",
        )

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def write(self, step: int, metrics: Mapping[str, float], seconds_left: float) -> None:
        """Write metrics, among them `loss` and `samples_per_second`, and say how it goes."""
        self.record(step, metrics)
        summary = (
            f"loss {metrics['loss']:.4f}, {metrics['samples_per_second']:.1f} samples/s, "
            f"{timedelta(seconds=round(seconds_left))} left"
        )
        self._bar.set_postfix_str(summary)
        if self._bar.disable:
            self.say(f"step {step}/{self._stop}, {summary}")

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write metrics and say nothing."""
        if self._file is not None:
            _append(self._file, {"step": step, **metrics})
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def keep_skipped(self, step: int, reason: str, samples: list[str]) -> None:
        """Note in `logs/skipped.jsonl` which samples a skipped step had."""
        if self._file is not None:
            row = {"step": step, "reason": reason, "samples": samples}
            _append(self._file.with_name("skipped.jsonl"), row)

    def say(self, text: str) -> None:
        """A line on stderr that does not break the bar."""
        if not self._quiet:
            tqdm.write(text, file=sys.stderr)


def _append(file: Path, row: Mapping[str, Any]) -> None:
    try:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
    except OSError as error:  # a full disk does not say where
        raise OSError(error.errno, error.strerror, str(file)) from None


def _drop_after(file: Path, step: int) -> None:
    """Remove the lines of steps after `step`, and a last line that was cut off."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text("utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:
            continue
    part = file.with_suffix(".part")
    part.write_text("".join(kept), "utf-8")
    os.replace(part, file)


def _tensorboard(folder: Path, start: int) -> Any:
    """TensorBoard's writer, or None where it is not installed (`pip install statefilm[train]`)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)

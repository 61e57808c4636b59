"""What a run says while it goes: metrics for files, TensorBoard and W&B, and progress."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from statefilm.errors import UsageError
from statefilm.training.recipe import Recipe

__all__ = ["Logs", "Meter", "find_wandb"]

logger = logging.getLogger(__name__)

WANDB_PATIENCE = 60  # seconds for who logs in, for the start, and for what is left at the end


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
        recipe: of the run, for Weights & Biases where its `log.wandb` names a project.
    """

    def __init__(
        self,
        run: Path | None,
        start: int,
        stop: int,
        quiet: bool = False,
        recipe: Recipe | None = None,
    ) -> None:
        self._file = None if run is None else run / "logs" / "metrics.jsonl"
        self._board = None
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._skipped = self._file.with_name("skipped.jsonl")
            for file in (self._file, self._skipped):
                _drop_after(file, start)
            self._board = _tensorboard(self._file.parent, start)
        self._stop, self._quiet = stop, quiet
        self._bar = tqdm(
            total=stop,
            initial=start,
            disable=quiet or not sys.stderr.isatty(),
            bar_format="{percentage:3.0f}% {bar} {n_fmt}/{total_fmt}{postfix}",
        )
        self._wandb = None
        if self._file is not None and recipe is not None and recipe.log.wandb is not None:
            self._wandb = _Wandb(self._file.parent, recipe.log.wandb, recipe)
            if self._wandb.url:
                self.say(f"W&B: {self._wandb.url}")

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
        if self._wandb is not None:
            self._wandb.close(failed=kind is not None)

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
        if self._wandb is not None:
            self._wandb.record(step, metrics)

    def keep_skipped(self, step: int, reason: str, samples: list[str]) -> None:
        """Note in `logs/skipped.jsonl` which samples a skipped step had."""
        if self._file is not None:
            row = {"step": step, "reason": reason, "samples": samples}
            _append(self._skipped, row)

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


def find_wandb() -> Any:
    """The package of Weights & Biases.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import wandb
    except ImportError:
        wandb = None
    if not hasattr(wandb, "init"):  # the folders `wandb` that it makes can be imported too
        raise UsageError("log.wandb needs wandb: pip install 'statefilm[wandb]'")
    return wandb


class _Wandb:
    """A run at Weights & Biases, which never ends a training: what it cannot do is said once.

    Where the service is not to be had, the run is kept in the folder `wandb` of the run folder.

    Args:
        folder: for `wandb-id`, by which a run that goes on finds itself again.
        recipe: gives the run its name and its config.
    """

    def __init__(self, folder: Path, project: str, recipe: Recipe) -> None:
        self._run, self.url, self._next = None, None, 0
        file = folder / "wandb-id"
        if not file.exists():
            file.write_text(secrets.token_hex(4) + "\n", "utf-8")
        wanted = {
            "project": project,
            "name": recipe.name,
            "id": file.read_text("utf-8").strip(),
            "resume": "allow",
            "config": recipe.model_dump(mode="json"),
            "allow_val_change": True,
            "dir": str(folder.parent),
        }
        try:
            self._run = _start_wandb(wanted)
            self.url = None if self._run.offline else self._run.url
            self._next = self._run.step
        except Exception as error:
            self._give_up(error)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand on metrics of a step, unless they were before the run was interrupted."""
        if self._run is None or step < self._next:
            return
        try:
            self._run.log(dict(metrics), step=step)
        except Exception as error:
            self._give_up(error)

    def close(self, failed: bool) -> None:
        """Wait a little for what has not been sent."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=int(failed))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        logger.warning("log.wandb: nothing more is logged there (%s)", _first_line(error))
        self._run = None


def _start_wandb(wanted: Mapping[str, Any]) -> Any:
    """A run with the service or, where that fails, on the disk alone."""
    wandb = find_wandb()
    settings = wandb.Settings(
        silent=True,
        console="off",
        login_timeout=WANDB_PATIENCE,
        init_timeout=WANDB_PATIENCE,
        finish_timeout=WANDB_PATIENCE,
    )
    try:
        return wandb.init(**wanted, settings=settings)
    except Exception as error:
        logger.warning(
            "log.wandb: the run is kept in %s, for `wandb sync` to send (%s)",
            Path(wanted["dir"]) / "wandb",
            _first_line(error),
        )
    wandb.teardown()  # else the id is still taken by the run that did not start
    return wandb.init(**wanted, settings=settings, mode="offline")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

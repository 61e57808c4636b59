"""The training loop: one for every task, with exact resume, guards and clean stops."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import Tensor

from statefilm.errors import UsageError
from statefilm.pipelines.loading import pick_device
from statefilm.training.batches import Batch
from statefilm.training.checkpoint import (
    Snapshot,
    find_snapshot,
    load_parameters,
    replace_folder,
    save_snapshot,
)
from statefilm.training.ema import MovingAverage
from statefilm.training.loading import dump_recipe
from statefilm.training.logs import Logs, Meter
from statefilm.training.optim import Optimizers, learning_rate_factor
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import Recipe
from statefilm.training.tasks import build_task

__all__ = ["Trainer"]

ECHO_SECONDS = 2.0


@dataclass
class Counters:
    """Where a run stands; saved as JSON."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    ema_updates: int = 0
    meter: dict[str, list[float]] = field(default_factory=dict)


class Trainer:
    """Runs a recipe in a folder.

    The folder holds `recipe.yaml`, `checkpoints/step-N/`, `logs/`, `samples/`, and the averaged
    model as `pipeline/` (of a VAE recipe: `vae/`), renewed with every checkpoint.

    Every random choice of a step is a function of (seed, step, sample), and a checkpoint holds all
    else, so that an interrupted run that goes on has the losses of one that was never interrupted,
    to the bit on a CPU, unless the learning rate follows time.

    Started by `torchrun`, the processes share each batch; the losses are those of one process.

    Args:
        recipe: from `load_recipe`.
        output_dir: the run folder; made when it is not there.
        device: "auto" or a torch device.
        quiet: says nothing on stderr.

    Raises:
        ValueError, FileNotFoundError: the recipe names something that is not there or does not
            fit; one line.
    """

    def __init__(
        self,
        recipe: Recipe,
        output_dir: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        quiet: bool = False,
    ) -> None:
        self.recipe = recipe
        self.folder = Path(output_dir)
        self.device = pick_device(device)
        self.ranks = Ranks.join(self.device)
        self.quiet = quiet or not self.ranks.is_first

    def fit(self, resume: str | os.PathLike[str] = "auto") -> Path:
        """Train to the end and return the folder of the saved model.

        Args:
            resume: "auto" goes on from the newest whole checkpoint where there is one, "none"
                wants a fresh run, and a path is a checkpoint's folder.

        Raises:
            UsageError, FileExistsError, FileNotFoundError: see `find_snapshot`.
            FloatingPointError: more than `max_skipped_steps` steps in a row were not finite.
            KeyboardInterrupt: SIGINT or SIGTERM; the state was saved first.
        """
        snapshot = find_snapshot(self.folder, resume)
        self.ranks.wait()  # before rank 0 writes what the others would take for a run
        self._build()
        if snapshot is not None:
            self._restore(snapshot)
        counters = self.counters
        self._started = time.monotonic() - counters.seconds
        self._first_step, self._first_seconds = counters.step, counters.seconds
        self._reported = counters.samples, counters.seconds
        self._clock = counters.seconds
        folder = self.folder if self.ranks.is_first else None
        self.logs = Logs(folder, counters.step, self.recipe.steps, self.quiet)
        with self.logs, _stop_signals() as stop:
            if snapshot is not None:
                self.logs.say(f"resuming at step {counters.step}")
            self._store_recipe()
            stopped = self._run(stop)
        self.ranks.leave()
        if stopped:
            raise KeyboardInterrupt(f"stopped at step {self.counters.step}; the state is saved")
        return self.folder / self.task.output

    def _build(self) -> None:
        recipe = self.recipe
        self.task = build_task(recipe, self.device, self.ranks)
        self.optimizers = Optimizers(self.task.modules, recipe.optimizer)
        self.average = MovingAverage(self.optimizers.parameters, recipe.ema)
        self.counters, self.meter = Counters(), Meter()
        if recipe.compile == "blocks":
            self.task.compile()

    def _run(self, stop: _StopRequest) -> bool:
        """Step until the recipe's end, its time, or a signal; save on the way and at the end.

        Returns:
            Whether a signal ended it before the recipe did.
        """
        recipe, counters = self.recipe, self.counters
        saved_step, saved_at, stopping = counters.step, time.monotonic(), False
        batches = self.task.batches.loader(
            counters.step, recipe.steps, recipe.workers, pin=self.device.type == "cuda"
        )
        while counters.step < recipe.steps:
            self._clock, stopping = self.ranks.agree(self._seconds(), stop.requested)
            if stopping or self._out_of_time():
                break
            self._step(next(batches).to(self.device))
            self._report()
            minutes = (time.monotonic() - saved_at) / 60
            if _due(counters.step, recipe.checkpoint.every_steps) or (
                0 < recipe.checkpoint.every_minutes <= minutes
            ):
                self._save()
                saved_step, saved_at = counters.step, time.monotonic()
            if _due(counters.step, recipe.samples.every_steps):
                self._sample()
        if counters.step > saved_step or not (self.folder / self.task.output).exists():
            self._save()
        return stopping

    def _step(self, batch: Batch) -> None:
        """One update of the weights; skipped when the loss or a gradient is not finite."""
        recipe, counters = self.recipe, self.counters
        factor = learning_rate_factor(recipe.optimizer, counters.step, self._progress())
        # Dropout, and whatever else may draw from the global generator, depends on the step.
        torch.manual_seed(seed_of(recipe.seed, "step", counters.step))
        autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
        )
        with autocast:
            loss = self.task.loss(batch)
        loss.backward()
        self.ranks.average_gradients(self.optimizers.parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(
            self.optimizers.parameters.values(), recipe.optimizer.grad_clip
        )
        loss = self.ranks.mean(loss.detach())
        value, norm_value = torch.stack([loss, norm]).tolist()
        counters.step += 1
        counters.samples += len(batch.captions) * self.ranks.size
        if math.isfinite(value) and math.isfinite(norm_value):
            self.optimizers.step(factor)
            self.average.update()
            counters.skipped_in_a_row = 0
            stream = recipe.data[batch.stream].name
            self.meter.add(loss=value, grad_norm=norm_value, **{f"loss_{stream}": value})
        else:
            self._skip(value, norm_value)
        self.optimizers.zero_grad()
        self._factor = factor

    def _skip(self, loss: float, norm: float) -> None:
        counters = self.counters
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        what = f"loss {loss}, gradient norm {norm}"
        if counters.skipped_in_a_row > self.recipe.max_skipped_steps:
            raise FloatingPointError(
                f"step {counters.step}: not finite for the {counters.skipped_in_a_row}th time in a "
                f"row ({what}); try a smaller optimizer.lr or precision=float32"
            )
        self.logs.say(f"step {counters.step} skipped: not finite ({what})")

    def _report(self) -> None:
        counters = self.counters
        self.logs.advance()
        if not _due(counters.step, self.recipe.log.every_steps):
            return
        means = self.meter.read()
        if not means:  # every step since the last report was skipped
            return
        seconds = self._seconds()
        reported_samples, reported_seconds = self._reported
        rate = (counters.samples - reported_samples) / max(seconds - reported_seconds, 1e-9)
        self._reported = counters.samples, seconds
        metrics = {
            **means,
            "lr": self.recipe.optimizer.lr * self._factor,
            "skipped": counters.skipped,
            "samples": counters.samples,
            "samples_per_second": rate,
            "seconds": seconds,
        }
        self.logs.write(counters.step, metrics, self._seconds_left())

    def _save(self) -> None:
        """The checkpoint, and the model with averaged weights."""
        if not self.ranks.is_first:
            return
        counters = self.counters
        counters.seconds = self._seconds()
        counters.ema_updates, counters.meter = self.average.updates, self.meter.state()
        tensors: dict[str, dict[str, Tensor]] = {
            "model": dict(self.task.modules.named_parameters()),
            "ema": self.average.tensors(),
            "optimizer": self.optimizers.tensors(),
        }
        snapshot = Snapshot(tensors, asdict(counters))
        save_snapshot(self.folder, snapshot, self.recipe.checkpoint.keep_last)
        with self.average.applied():
            replace_folder(self.folder / self.task.output, self.task.save)

    def _sample(self) -> None:
        if not self.ranks.is_first:
            return
        try:
            with self.average.applied(), self.task.evaluation():
                self.task.sample(self.folder / "samples", self.counters.step)
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            self.logs.say(f"no samples at step {self.counters.step}: {error}")

    def _restore(self, snapshot: Snapshot) -> None:
        load_parameters(self.task.modules, snapshot.tensors["model"])
        try:
            self.counters = Counters(**snapshot.state)
        except TypeError as error:
            raise UsageError(
                f"the checkpoint's state.json is of another version ({error})"
            ) from None
        self.average.load(snapshot.tensors["ema"], self.counters.ema_updates)
        self.optimizers.load(snapshot.tensors["optimizer"])
        self.meter = Meter(self.counters.meter)

    def _store_recipe(self) -> None:
        """Write `recipe.yaml`; says which fields differ from the one that is there."""
        if not self.ranks.is_first:
            return
        file, text = self.folder / "recipe.yaml", dump_recipe(self.recipe)
        if file.exists():
            before, now = (_flat(yaml.safe_load(t)) for t in (file.read_text("utf-8"), text))
            for key in sorted(before.keys() | now.keys()):
                if before.get(key) != now.get(key):
                    self.logs.say(f"recipe: {key} was {before.get(key)}, is {now.get(key)}")
        part = file.with_suffix(".part")
        part.write_text(text, "utf-8")
        os.replace(part, file)

    def _seconds(self) -> float:
        """Seconds spent on the run, those before an interruption included."""
        return time.monotonic() - self._started

    def _out_of_time(self) -> bool:
        limit = self.recipe.max_minutes
        return limit is not None and self._clock >= 60 * limit

    def _progress(self) -> float:
        """The part of the run that is done, as the learning rate sees it."""
        if self.recipe.optimizer.schedule_by == "time":
            assert self.recipe.max_minutes is not None
            return min(1.0, self._clock / (60 * self.recipe.max_minutes))
        return self.counters.step / self.recipe.steps

    def _seconds_left(self) -> float:
        """A guess from the pace since the start or the last resume."""
        done, seconds = self.counters.step - self._first_step, self._seconds()
        pace = (seconds - self._first_seconds) / done
        left = pace * (self.recipe.steps - self.counters.step)
        limit = self.recipe.max_minutes
        return left if limit is None else min(left, max(0.0, 60 * limit - seconds))


@dataclass
class _StopRequest:
    """Whether a signal has asked the run to end, and since when on the monotonic clock."""

    requested: bool = False
    since: float = 0.0


@contextmanager
def _stop_signals() -> Iterator[_StopRequest]:
    """SIGINT and SIGTERM ask for a stop after the step; a later second one acts at once.

    Not one that follows immediately: a terminal and `torchrun` both hand on the same Ctrl-C.
    """
    stop = _StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        if not stop.requested:
            stop.requested, stop.since = True, time.monotonic()
        elif time.monotonic() - stop.since > ECHO_SECONDS:
            signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _flat(fields: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as "a.b.0" to value."""
    if isinstance(fields, dict):
        items = list(fields.items())
    elif isinstance(fields, list):
        items = list(enumerate(fields))
    else:
        return {prefix.rstrip("."): fields}
    return {k: v for key, value in items for k, v in _flat(value, f"{prefix}{key}.").items()}

"""The training loop: one for every task, with exact resume, guards and clean stops."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from statefilm.errors import UsageError
from statefilm.pipelines import HTHPipeline
from statefilm.pipelines.loading import pick_device
from statefilm.training.batches import Batch
from statefilm.training.checkpoint import (
    Saver,
    Snapshot,
    find_snapshot,
    load_parameters,
    replace_folder,
)
from statefilm.training.ema import MovingAverage
from statefilm.training.loading import dump_recipe
from statefilm.training.logs import Logs, Meter, find_wandb
from statefilm.training.optim import Optimizers, learning_rate_factor
from statefilm.training.parallel import Ranks
from statefilm.training.parallel.apply import distribute
from statefilm.training.parallel.sharding import gathered, unsharded, whole
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import Recipe, Samples
from statefilm.training.signals import StopRequest, stop_signals
from statefilm.training.sources import digest_of
from statefilm.training.tasks import DenoiserTask, Task, build_task

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

BEST = "best"

# From a pipeline and the recipe's `samples` to what scores its model as it is when called.
Score = Callable[[HTHPipeline, Samples], Callable[[], Mapping[str, float]]]


@dataclass
class Counters:
    """Where a run stands; saved as JSON."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    ema_updates: int = 0
    best: float | None = None
    best_step: int | None = None
    vocabulary: list[str] | None = None
    data: list[str] = field(default_factory=list)
    meter: dict[str, list[float]] = field(default_factory=dict)


class Trainer:
    """Runs a recipe in a folder.

    The folder holds `recipe.yaml`, `checkpoints/step-N/`, `logs/`, `samples/`, and the averaged
    model as `pipeline/` (of a VAE recipe: `vae/`), renewed with every checkpoint; with
    `checkpoint.keep_best` also as `best/`, that of the lowest validation loss.

    Every random choice of a step is a function of (seed, step, sample), and a checkpoint holds all
    else, so that an interrupted run that goes on has the losses of one that was never interrupted,
    to the bit on a CPU, unless the learning rate follows time.

    Started by `torchrun`, the processes share the work as the recipe's `parallel` says; the losses
    are those of one process, and a checkpoint of any number of them goes on with any other.

    Args:
        recipe: from `load_recipe`.
        output_dir: the run folder; made when it is not there.
        device: "auto" or a torch device.
        quiet: says nothing on stderr.
        score: what judges the model where the recipe's `samples.world_scores` asks for it. It is
            called once, before the first step, and raises UsageError for a model that it cannot
            judge; what it returns is called with averaged weights.

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
        score: Score | None = None,
    ) -> None:
        wanted = recipe.samples.world_scores
        if wanted and score is None:
            raise UsageError(
                f"samples.world_scores {wanted} needs what judges the world: give Trainer a "
                "`score`, as `statefilm train` does, or leave it out"
            )
        if recipe.log.wandb is not None:
            find_wandb()  # before anything is written
        self.recipe, self.score = recipe, score
        self.folder = Path(output_dir)
        self.device = pick_device(device)
        self.ranks = Ranks.join(self.device, recipe.parallel)
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
            ConnectionError: another process is gone.
            OSError: a file could not be written; the checkpoints before it are whole.
        """
        with self.ranks.loud():
            return self._fit(resume)

    def _fit(self, resume: str | os.PathLike[str]) -> Path:
        snapshot = find_snapshot(self.folder, resume, self.ranks)
        self.ranks.wait()  # before rank 0 writes what the others would take for a run
        self._build(None if snapshot is None else snapshot.state.get("vocabulary"))
        if snapshot is not None:
            self._restore(snapshot)
        counters = self.counters
        folder = self.folder if self.ranks.is_first else None
        self.logs = Logs(folder, counters.step, self.recipe.steps, self.quiet, self.recipe)
        self._started = time.monotonic() - counters.seconds
        self._first_step, self._first_seconds = counters.step, counters.seconds
        self._reported = counters.samples, counters.seconds
        self._clock = counters.seconds
        with self.logs, stop_signals() as stop:
            if snapshot is not None:
                self.logs.say(f"resuming at step {counters.step}")
            self._store_recipe()
            stopped = self._run(stop)
        self.ranks.leave()
        if stopped:
            raise KeyboardInterrupt(f"stopped at step {self.counters.step}; the state is saved")
        return self.folder / self.task.output

    def _build(self, vocabulary: list[str] | None = None) -> None:
        recipe = self.recipe
        self.task = self._open_task(vocabulary)
        self.counters, self.meter = Counters(), Meter()
        self.counters.data = [one.fingerprint for one in self.task.batches.sources]
        if self.task.vocabulary is not None:
            self.counters.vocabulary = list(self.task.vocabulary)
        self._world_scores = self._open_scores()
        if not self.ranks.same(int(digest_of([self.counters]), 16)):
            raise UsageError(
                "the processes see different data: give all of them the same files, captions and "
                "names, as on a disk that they share"
            )
        if recipe.compile == "blocks":
            self.task.compile()
        distribute(self.task, recipe, self.ranks)
        self.optimizers = Optimizers(self.task.modules, recipe.optimizer)
        self.average = MovingAverage(self.optimizers.parameters, recipe.ema)
        self.saver = Saver(self.folder, recipe.checkpoint, self.ranks)

    def _open_task(self, vocabulary: list[str] | None) -> Task:
        return build_task(self.recipe, self.device, self.ranks, self.folder, vocabulary=vocabulary)

    def _open_scores(self) -> Callable[[], Mapping[str, float]] | None:
        """What scores the task's model on the world; None where the recipe does not ask for it."""
        if not self.recipe.samples.world_scores or self.score is None:
            return None
        assert isinstance(self.task, DenoiserTask)
        return self.score(self.task.pipeline, self.recipe.samples)

    def _run(self, stop: StopRequest) -> bool:
        """Step until the recipe's end, its time, or a signal; save on the way and at the end.

        Returns:
            Whether a signal ended it before the recipe did.
        """
        recipe, counters = self.recipe, self.counters
        saved_at, stopping, shown = time.monotonic(), False, counters.step
        # Where checkpoints are written in the background, what is exported may be older than they.
        exported = -1 if recipe.checkpoint.background else counters.step
        loader = self.task.batches.loader(
            counters.step, recipe.steps, recipe.workers, pin=self.device.type == "cuda"
        )
        with closing(loader) as batches:
            while counters.step < recipe.steps:
                self._clock, stopping = self.ranks.agree(self._seconds(), stop.requested)
                if stopping or self._out_of_time():
                    break
                self._step(next(batches).to(self.device))
                is_best = self._validate()
                self._report()
                is_shown = _due(counters.step, recipe.samples.every_steps)
                if is_shown:
                    self._judge()  # before the checkpoint, so that none goes on without its scores
                if is_best or self._save_is_due(time.monotonic() - saved_at):
                    export = not recipe.checkpoint.background or counters.step == recipe.steps
                    self._save(export, is_best)
                    exported = counters.step if export else exported
                    saved_at = time.monotonic()
                if is_shown:
                    self._sample()
                    shown = counters.step
        is_last = bool(recipe.samples.every_steps) and not stopping and counters.step > shown
        if is_last:
            self._judge()
        missing = not (self.folder / self.task.output).exists()
        if counters.step > exported or self.ranks.any(missing):
            self._save(export=True)
        if is_last:
            self._sample()
        self.saver.finish()
        return stopping

    def _step(self, batch: Batch) -> None:
        """One update of the weights; skipped when the loss or a gradient is not finite."""
        recipe, counters = self.recipe, self.counters
        factor = learning_rate_factor(recipe.optimizer, counters.step, self._progress())
        # Dropout, and whatever else may draw from the global generator, depends on the step and on
        # which part of its samples this is.
        part = self.ranks.rank // self.ranks.context
        torch.manual_seed(seed_of(recipe.seed, "step", counters.step, part))
        loss = self._backward(batch)
        self.ranks.average_gradients(self.optimizers.parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(
            self.optimizers.parameters.values(), recipe.optimizer.grad_clip
        )
        value, norm_value = torch.stack([self.ranks.mean(loss), whole(norm)]).tolist()
        counters.step += 1
        counters.samples += len(batch.captions) * self.ranks.sample_parts
        if math.isfinite(value) and math.isfinite(norm_value):
            self.optimizers.step(factor)
            self.average.update()
            counters.skipped_in_a_row = 0
            stream = self.task.batches.names[batch.stream]
            self.meter.add(loss=value, grad_norm=norm_value, **{f"loss_{stream}": value})
        else:
            self._skip(batch, value, norm_value)
        self.optimizers.zero_grad()
        self._factor = factor

    def _backward(self, batch: Batch) -> Tensor:
        """Add the gradients of a batch, part by part; its mean loss, a scalar."""
        count = self.recipe.accumulate
        total = torch.zeros((), device=self.device)
        for part in _parts(batch, count):
            with self._precision():
                loss = self.task.loss(part) / count
            loss.backward()
            total += loss.detach()
        return total

    def _precision(self) -> torch.autocast:
        wanted = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def _skip(self, batch: Batch, loss: float, norm: float) -> None:
        """Count a step that is not finite, and keep what was in its batch."""
        counters = self.counters
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        what = f"loss {loss}, gradient norm {norm}"
        names = self.ranks.gather_text(json.dumps(batch.names))[:: self.ranks.context]
        samples = [name for text in names for name in json.loads(text)]
        self.logs.keep_skipped(counters.step, what, samples)
        if counters.skipped_in_a_row > self.recipe.max_skipped_steps:
            raise FloatingPointError(
                f"step {counters.step}: not finite for the {counters.skipped_in_a_row}th time in a "
                f"row ({what}); try a smaller optimizer.lr or precision=float32"
            )
        self.logs.say(f"step {counters.step} skipped: not finite ({what})")

    def _validate(self) -> bool:
        """The loss on held-out data, if it is due; whether it is the lowest and so to be kept."""
        config, counters, held_out = self.recipe.validation, self.counters, self.task.held_out
        if config is None or held_out is None or not _due(counters.step, config.every_steps):
            return False
        with self.average.applied(), self.task.evaluation(), self._precision():
            batches = (held_out[number].to(self.device) for number in range(config.batches))
            losses = torch.stack([self.task.validation_loss(batch) for batch in batches])
        loss = float(self.ranks.mean(losses.mean()))
        self.logs.record(counters.step, {"validation": loss})
        self.logs.say(f"step {counters.step}: validation loss {loss:.4f}")
        is_best = loss < (math.inf if counters.best is None else counters.best)
        if not (is_best and self.recipe.checkpoint.keep_best):
            return False
        counters.best, counters.best_step = loss, counters.step
        return True

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

    def _save_is_due(self, seconds: float) -> bool:
        """Whether a checkpoint is wanted, so long after the last."""
        config = self.recipe.checkpoint
        if not config.every_minutes:
            return _due(self.counters.step, config.every_steps)
        late = self.ranks.any(seconds >= 60 * config.every_minutes)
        return late or _due(self.counters.step, config.every_steps)

    def _save(self, export: bool, is_best: bool = False) -> None:
        """The checkpoint and, before it and where asked for, the model with averaged weights."""
        outputs = [self.task.output] * export + [BEST] * is_best
        if outputs:
            with self.average.applied(), gathered(self.task.modules, self.ranks.is_first):
                for output in outputs if self.ranks.is_first else ():
                    replace_folder(self.folder / output, self.task.save)
        counters = self.counters
        counters.seconds = self._seconds()
        counters.ema_updates, counters.meter = self.average.updates, self.meter.state()
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": dict(self.task.modules.named_parameters()),
            "ema": self.average.tensors(),
            "optimizer": self.optimizers.tensors(),
        }
        self.saver.save(Snapshot(tensors, asdict(counters)))

    def _judge(self) -> None:
        """Log how well the averaged weights do on the world, where the recipe asks for it."""
        if self._world_scores is None or not self._draws:
            return
        with self._pictures("world scores"):
            scores = self._world_scores()
            step = self.counters.step
            self.logs.record(step, {f"world/{name}": value for name, value in scores.items()})
            told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            self.logs.say(f"step {step}: world scores {told}")

    def _sample(self) -> None:
        """Pictures with averaged weights."""
        if not self._draws:
            return
        with tempfile.TemporaryDirectory() as unwanted, self._pictures("samples"):
            folder = self.folder / "samples" if self.ranks.is_first else Path(unwanted)
            self.task.sample(folder, self.counters.step)

    @property
    def _draws(self) -> bool:
        """Whether this process makes pictures: all do of a model that runs on all together."""
        return self.ranks.is_first or self.ranks.in_step

    @contextmanager
    def _pictures(self, what: str) -> Iterator[None]:
        """The task's modules make pictures with averaged weights; where they cannot, it is said."""
        try:
            with self.average.applied(), unsharded(self.task.modules), self.task.evaluation():
                yield
        except (FloatingPointError, torch.OutOfMemoryError) as error:
            self.logs.say(f"no {what} at step {self.counters.step}: {error}")

    def _restore(self, snapshot: Snapshot) -> None:
        load_parameters(self.task.modules, snapshot.tensors["model"])
        fresh = self.counters
        try:
            self.counters = Counters(**snapshot.state)
        except TypeError as error:
            raise UsageError(
                f"the checkpoint's state.json is of another version ({error})"
            ) from None
        if self.ranks.any(not (self.folder / BEST).exists()):  # as in another run folder
            self.counters.best = self.counters.best_step = None
        self.average.load(snapshot.tensors["ema"], self.counters.ema_updates)
        self.optimizers.load(snapshot.tensors["optimizer"])
        self.meter = Meter(self.counters.meter)
        for number, (before, now) in enumerate(zip(self.counters.data, fresh.data, strict=False)):
            if before != now and self.ranks.is_first:
                logger.warning(
                    "data.%d is not what it was at the checkpoint: samples come in another order",
                    number,
                )
        self.counters.data, self.counters.vocabulary = fresh.data, fresh.vocabulary

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


def _parts(batch: Batch, count: int) -> Iterator[Batch]:
    """A batch in equal parts, sample by sample."""
    size = len(batch.captions) // count
    values: dict[str, Any] = {one.name: getattr(batch, one.name) for one in fields(batch)}
    by_sample = {name: value for name, value in values.items() if isinstance(value, list | Tensor)}
    for start in range(0, count * size, size):
        stretch = slice(start, start + size)
        part: dict[str, Any] = {name: value[stretch] for name, value in by_sample.items()}
        yield replace(batch, **part)

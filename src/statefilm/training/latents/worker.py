"""One worker: a job in, a shard on the disk, and a report of what it holds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from statefilm.data.files import BadItem, load
from statefilm.data.files.entry import reason_of
from statefilm.data.latents import ENDS, LATENTS, TEXT, write_shard
from statefilm.errors import UsageError
from statefilm.training.latents.encoders import Encoders, EncoderSpec
from statefilm.training.latents.plan import LatentJob, TextJob, Unit

__all__ = ["Job", "Report", "Worker"]

Job = LatentJob | TextJob

_TEXTS = 32  # captions encoded at a time
_READERS = 4  # threads that decode while the encoders are at work


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a job.

    Attributes:
        done: rows written.
        bad: name and reason of the samples that could not be encoded.
        cut: captions longer than the encoder reads.
        error: why no shard was written, where the disk or a model was the reason.
    """

    done: int = 0
    bad: tuple[tuple[str, str], ...] = ()
    cut: int = 0
    error: str | None = None


class Worker:
    """Writes the shards of jobs into a folder.

    Args:
        folder: seen by all workers.
        number: of the worker, to choose a GPU by.
    """

    def __init__(self, folder: Path, spec: EncoderSpec, number: int = 0) -> None:
        self.folder, self.encoders = folder, Encoders(spec, number)

    def __call__(self, job: Job) -> Report:
        try:
            return self._texts(job) if isinstance(job, TextJob) else self._latents(job)
        except (OSError, UsageError) as error:
            return Report(error=reason_of(error))

    def _latents(self, job: LatentJob) -> Report:
        keys: list[str] = []
        bad: list[tuple[str, str]] = []
        parts: dict[str, list[Tensor]] = {}
        for units, frames in _read_ahead(job, bad):
            found = self.encoders.latents(torch.stack(frames).float() / 127.5 - 1)
            for place, unit in enumerate(units):
                tensors = {name: tensor[place] for name, tensor in found.items()}
                if not all(tensor.isfinite().all() for tensor in tensors.values()):
                    bad.append((unit.entry.name, "its latents are not finite"))
                    continue
                keys.append(unit.row.key)
                for name, tensor in tensors.items():
                    parts.setdefault(name, []).append(tensor)
        if keys:
            rows = {name: torch.stack(tensors) for name, tensors in parts.items()}
            write_shard(self.folder / LATENTS, keys, rows)
        return Report(len(keys), tuple(bad))

    def _texts(self, job: TextJob) -> Report:
        states: list[Tensor] = []
        with _count_cuts() as cuts:
            for start in range(0, len(job.captions), _TEXTS):
                states += self.encoders.states(job.captions[start : start + _TEXTS])
        ends = torch.tensor([len(one) for one in states]).cumsum(0)
        rows = {"states": torch.cat(states), ENDS: ends}
        write_shard(self.folder / TEXT, job.keys, rows)
        return Report(len(job.keys), cut=len(cuts))


def _read_ahead(
    job: LatentJob, bad: list[tuple[str, str]]
) -> Iterator[tuple[list[Unit], list[Tensor]]]:
    """Batches of a job's samples, one decoded ahead; what is broken is added to `bad`."""
    size = job.options.batch_size
    parts = [job.units[start : start + size] for start in range(0, len(job.units), size)]
    with ThreadPoolExecutor(_READERS) as pool:
        ahead = _submit(pool, job, parts[0])
        for part, following in zip(parts, [*parts[1:], ()], strict=True):
            now, ahead = ahead, _submit(pool, job, following)
            units, frames = [], []
            for unit, future in zip(part, now, strict=True):
                try:
                    frames.append(future.result())
                    units.append(unit)
                except BadItem as error:
                    bad.append((error.name, error.reason))
            if units:
                yield units, frames


def _submit(
    pool: ThreadPoolExecutor, job: LatentJob, units: Sequence[Unit]
) -> list[Future[Tensor]]:
    return [pool.submit(_load, job, unit) for unit in units]


def _load(job: LatentJob, unit: Unit) -> Tensor:
    return load(
        job.root,
        unit.entry,
        job.bucket.size,
        num_frames=job.bucket.num_frames,
        fps=job.options.fps,
        seed=unit.seed,
        background=job.options.background,
        limits=job.limits,
    )


@contextmanager
def _count_cuts() -> Iterator[list[str]]:
    """Collects the warnings that captions are too long, in place of a line for each."""
    logger = logging.getLogger("statefilm.models.text")
    lines: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return False

    logger.addFilter(collect)
    try:
        yield lines
    finally:
        logger.removeFilter(collect)

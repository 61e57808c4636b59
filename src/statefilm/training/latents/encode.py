"""From a source of files to a folder of latents: what it lacks is encoded, then indexed."""

from __future__ import annotations

import fcntl
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from statefilm import __version__
from statefilm.data.files import Assignment, Bucket, Quarantine, Source
from statefilm.data.latents import (
    LATENTS,
    TEXT,
    Encoding,
    Index,
    keys_in,
    shard_files,
    write_index,
)
from statefilm.errors import UsageError, check_stepped, suggest
from statefilm.training.latents.encoders import DTYPES, Encoders, EncoderSpec, text_width
from statefilm.training.latents.engines import over_processes, over_ray
from statefilm.training.latents.plan import Options, Unit, latent_jobs, list_units, text_jobs
from statefilm.training.latents.worker import Job, Report

__all__ = ["ENGINES", "Outcome", "encode_files"]

ENGINES = {"process": over_processes, "ray": over_ray}
QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `encode_files` did.

    Attributes:
        samples: in the index now.
        encoded, reused: latents that were made, and that were there already.
        bad: name to reason of what cannot be used, since the folder was begun.
        dropped: entries that no bucket takes.
        cut: captions encoded now that are longer than the encoder reads.
    """

    samples: int
    encoded: int
    reused: int
    bad: dict[str, str]
    dropped: int
    cut: int


def encode_files(
    source: Source,
    assignment: Assignment,
    spec: EncoderSpec,
    folder: str | Path,
    options: Options | None = None,
    *,
    engine: str = "process",
    workers: int = 1,
    made: dict[str, Any] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Outcome:
    """Encode all samples and captions of a source that a folder does not hold yet.

    It may be stopped at any moment and called again: only the shards that workers were writing
    are lost. The index comes last, so that half a folder is never trained on.

    Args:
        assignment: of the source's entries to buckets.
        folder: for shards, the index and the list of what is broken.
        engine: a key of `ENGINES`.
        workers: processes, or Ray's actors.
        made: what the index is to say of its origin.
        progress: called with the numbers of rows done and to do after each shard.

    Raises:
        UsageError: an unknown engine, a size that the VAE does not take, too many broken items, or
            another process is at work in the folder.
        OSError: a shard could not be written, or a worker ended.
    """
    if engine not in ENGINES:
        raise suggest(engine, ENGINES, "engine")
    check_stepped("workers", workers, 1)
    folder, options, spec = Path(folder).resolve(), options or Options(), _absolute(spec)
    source = replace(source, root=source.root.resolve())
    sizes = _sample_sizes(spec, assignment)
    encoding = spec.encoding()
    with _alone_in(folder):
        bad = _Bad(folder, source)
        units, unread = list_units(source, assignment, encoding, options)
        bad.add((item.name, item.reason) for item in unread)
        before = _stored(folder)
        jobs = _jobs(source, units, encoding, options, sizes, spec, before)
        cut = 0
        if jobs:
            with closing(ENGINES[engine](jobs, folder, spec, workers)) as reports:
                cut = _follow(reports, jobs, bad, progress)
        stored = _stored(folder)
        rows = tuple(unit.row for unit in units if unit.row.key in stored)
        if not rows:
            raise UsageError(f"{source.root}: no item could be encoded")
        write_index(folder, Index(encoding, rows, {"version": __version__, **(made or {})}))
    keys = {row.key for row in rows}
    return Outcome(
        samples=len(rows),
        encoded=len(keys - before),
        reused=len(keys & before),
        bad=dict(bad.quarantine.reasons),
        dropped=len(assignment.dropped),
        cut=cut,
    )


class _Bad:
    """What is broken in a source, listed in the folder; too much of it is an error."""

    def __init__(self, folder: Path, source: Source) -> None:
        (folder / QUARANTINE).unlink(missing_ok=True)  # what was mended since is not in it
        self.quarantine = Quarantine(folder / QUARANTINE)
        self.total = len(source.entries) + len(source.refused)
        self.add(source.refused.items())

    def add(self, items: Iterable[tuple[str, str]]) -> None:
        """Remember names and reasons."""
        for name, reason in items:
            self.quarantine.add(name, reason, self.total)


def _follow(
    reports: Iterable[Report],
    jobs: Sequence[Job],
    bad: _Bad,
    progress: Callable[[int, int], object],
) -> int:
    """See all jobs done; the number of captions that were cut."""
    done, cut, to_do = 0, 0, sum(map(len, jobs))
    progress(done, to_do)
    for report in reports:
        if report.error is not None:
            raise OSError(report.error)
        bad.add(report.bad)
        done, cut = done + report.done + len(report.bad), cut + report.cut
        progress(done, to_do)
    return cut


def _jobs(
    source: Source,
    units: Sequence[Unit],
    encoding: Encoding,
    options: Options,
    sizes: dict[Bucket, int],
    spec: EncoderSpec,
    stored: set[str],
) -> list[Job]:
    """The work that is left, text first: it is little, and shows early if its encoder works."""
    jobs: list[Job] = []
    if spec.text is not None:
        captions = {"", *(caption for unit in units for caption in unit.row.captions)}
        new = (caption for caption in captions if encoding.text_key(caption) not in stored)
        width = text_width(spec.text) * DTYPES[spec.dtype].itemsize
        jobs += text_jobs(new, encoding, options, width)
    missing = (unit for unit in units if unit.row.key not in stored)
    return jobs + latent_jobs(source, missing, options, sizes)


def _sample_sizes(spec: EncoderSpec, assignment: Assignment) -> dict[Bucket, int]:
    """Bytes that a sample of each bucket takes."""
    encoders = Encoders(replace(spec, device="cpu"))
    numbers = DTYPES[spec.dtype].itemsize * (1 + spec.posterior)
    return {
        bucket: numbers * math.prod(encoders.latent_shape(bucket.num_frames, *bucket.size))
        for bucket in assignment.members
    }


def _stored(folder: Path) -> set[str]:
    """The keys of all rows in a folder."""
    shards = [*shard_files(folder / LATENTS), *shard_files(folder / TEXT)]
    return {key for shard in shards for key in keys_in(shard)}


def _absolute(spec: EncoderSpec) -> EncoderSpec:
    """For workers that start in another folder."""
    vae, text = (path and path.resolve() for path in (spec.vae, spec.text))
    return replace(spec, vae=vae, text=text)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder and removes what killed ones have left half written."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another statefilm encode is at work there") from None
        for part in (folder, folder / LATENTS, folder / TEXT):
            for file in part.glob(".*.part"):
                file.unlink(missing_ok=True)
        yield

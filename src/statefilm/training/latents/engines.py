"""Who does the work: this process, several on this machine, or Ray's workers on many."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from statefilm.errors import UsageError
from statefilm.training.latents.encoders import EncoderSpec
from statefilm.training.latents.worker import Job, Report, Worker

__all__ = ["over_processes", "over_ray"]


def over_processes(
    jobs: Sequence[Job], folder: Path, spec: EncoderSpec, workers: int
) -> Generator[Report]:
    """The reports of all jobs as they are done; one worker is this process itself."""
    if workers == 1:
        yield from map(Worker(folder, spec), jobs)
        return
    # Threads and GPUs do not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting, processes = iter(jobs), []
    crew: set[Connection] = set()
    threads = max(1, (os.cpu_count() or 1) // workers)
    try:
        for number, job in zip(range(workers), waiting, strict=False):
            ours, theirs = context.Pipe()
            arguments = (theirs, folder, spec, number, threads)
            processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            processes[-1].start()
            theirs.close()
            with _noticing_loss():
                ours.send(job)
            crew.add(ours)
        while crew:
            for pipe in wait(crew):
                assert isinstance(pipe, Connection)
                with _noticing_loss():
                    result = pipe.recv()
                if isinstance(result, Exception):
                    raise result
                yield result
                following = next(waiting, None)
                if following is None:
                    crew.remove(pipe)
                    pipe.close()
                    continue
                with _noticing_loss():
                    pipe.send(following)
    finally:
        for process in processes:
            process.terminate()
            process.join()


@contextmanager
def _noticing_loss() -> Iterator[None]:
    """Says what it means when the other end of a pipe is gone."""
    try:
        yield
    except (EOFError, OSError):
        raise ChildProcessError(
            "a worker ended without a word, as when memory runs out; run the command again, with "
            "fewer --workers: it goes on where it stopped"
        ) from None


def _serve(pipe: Connection, folder: Path, spec: EncoderSpec, number: int, threads: int) -> None:
    """The life of a worker process: jobs from the pipe, reports to it, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers, and ends this process
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(threads)
    worker = Worker(folder, spec, number)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(worker(job))
        except BrokenPipeError:  # the parent was killed
            return
        except Exception as error:  # whatever it is, the parent is to raise it
            pipe.send(error)
            return


def over_ray(
    jobs: Sequence[Job], folder: Path, spec: EncoderSpec, workers: int
) -> Generator[Report]:
    """The reports of all jobs as Ray Data's workers do them; what a lost worker had is done again.

    The cluster is that of RAY_ADDRESS, else one on this machine for as long as it takes. Its
    machines see the data, the models and the folder under the same paths.

    Raises:
        UsageError: Ray is not installed.
    """
    # Ray reports its use over the network unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError(
            "engine ray needs Ray Data: pip install 'statefilm[ray]', or use engine process"
        ) from None
    for name in ("ray", "ray.data"):  # what they say below errors is for their developers
        logging.getLogger(name).setLevel(logging.ERROR)
    with _cluster(ray, workers):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = ray.data.from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs))
        reports = rows.map(
            _RayWorker,
            fn_constructor_args=(folder, spec),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=int(spec.device != "cpu" and "GPU" in ray.cluster_resources()),
        )
        for row in reports.iter_rows():
            yield Report(**json.loads(row["report"]))


class _RayWorker:
    """A `Worker` inside an actor of Ray Data."""

    def __init__(self, folder: Path, spec: EncoderSpec) -> None:
        transformers_logging.disable_progress_bar()
        self.worker = Worker(folder, spec)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"report": json.dumps(asdict(self.worker(row["job"])))}


@contextmanager
def _cluster(ray: Any, workers: int) -> Iterator[None]:
    """A connection to Ray; what is started or connected here is left at the end."""
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    where = {"address": "auto"} if os.environ.get("RAY_ADDRESS") else local
    ray.init(**where, logging_level="error", log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()

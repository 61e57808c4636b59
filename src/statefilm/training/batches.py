"""Batches of the streams' samples as a function of (seed, step)."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from statefilm.errors import UsageError
from statefilm.training.objectives import Draw
from statefilm.training.opening import open_stream
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import StreamOrder, generator_of, seed_of
from statefilm.training.recipe import Recipe
from statefilm.training.sources import OwnFiles, Size, Source
from statefilm.training.streams import Stream

__all__ = ["Batch", "Batches", "DrawNoise", "batches_of"]

# From a stream's number, the size of its frames and one generator a sample to the random part.
DrawNoise = Callable[[int, Size, list[torch.Generator]], Draw]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's data.

    Attributes:
        step: the step it is of, from 0.
        stream: the number of the stream it comes from.
        names: B samples, as messages call them.
        captions: B texts, empty where the caption is dropped.
        labels: [B] integers, classes from 0; -1 where there is none, or where it is dropped.
        frames: [B, 3, T, H, W] in [-1, 1]; their latents [B, C, t, h, w] where `encoded`.
        noise: [B, C, t, h, w], of the latents' shape.
        level: [B], noise levels in (0, 1).
        encoded: whether the VAE has seen the frames ahead of training.
        states, mask: [B, S, D] and [B, S] of the captions; None where text was not encoded ahead.
    """

    step: int
    stream: int
    names: list[str]
    captions: list[str]
    labels: Tensor
    frames: Tensor
    noise: Tensor
    level: Tensor
    encoded: bool = False
    states: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch with its tensors in page-locked memory; the loader calls this by name."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


class Batches(Dataset[Batch]):
    """The batch of every step. Sample i of a step has the global index step * batch_size + i.

    Of a source that is seen in epochs it is the stream's own step that counts, so that every
    sample is seen whatever the weights of the streams.

    Args:
        seed: of the run.
        streams: the recipe's `data`.
        draw: the random part of a batch; sent to worker processes, so it holds no weights.
        ranks: a batch holds this process's share of the step's samples.
        sources: of the streams, where they are open already.

    Attributes:
        names: what logs call the streams: "image", "video" or "mixed".

    Raises:
        UsageError: the ranks cannot share a stream's batches evenly.
    """

    def __init__(
        self,
        seed: int,
        streams: Sequence[Stream],
        draw: DrawNoise,
        ranks: Ranks | None = None,
        sources: Sequence[Source] | None = None,
    ) -> None:
        self.seed, self.streams, self.draw = seed, tuple(streams), draw
        self.ranks = ranks or Ranks()
        self.order = StreamOrder(seed, [stream.weight for stream in self.streams])
        if sources is None:
            sources = [open_stream(seed, n, one, f"data.{n}") for n, one in enumerate(streams)]
        self.sources = tuple(sources)
        self.names = tuple(map(_kind_of, self.sources))
        for stream in self.streams:
            self.ranks.share(0, stream.batch_size)

    def __getitem__(self, step: int) -> Batch:
        batch = self.batch(self.order.stream(step), step)
        if get_worker_info() is None:
            self._warn_of_bad()
        return batch

    def batch(self, number: int, step: int) -> Batch:
        """The batch that a step holds if it draws from stream `number`."""
        size, source = self.streams[number].batch_size, self.sources[number]
        start, count = self.ranks.share(step * size, size)
        turn = self.order.drawn(number, step) if source.in_epochs else step
        samples = source.samples(start + (turn - step) * size, count)
        generators = [
            generator_of(self.seed, "noise", number, index) for index in range(start, start + count)
        ]
        draw = self.draw(number, samples.size, generators)
        captions = [
            "" if dropped else caption
            for caption, dropped in zip(samples.captions, draw.dropped.tolist(), strict=True)
        ]
        cache = source.cache
        has_text = cache is not None and cache.encoding.text is not None
        states, mask = cache.text(captions) if cache is not None and has_text else (None, None)
        return Batch(
            step=step,
            stream=number,
            names=samples.names,
            captions=captions,
            labels=samples.labels.masked_fill(draw.dropped, -1),
            frames=samples.frames,
            noise=draw.noise,
            level=draw.level,
            encoded=cache is not None,
            states=states,
            mask=mask,
        )

    def loader(self, start: int, stop: int, workers: int, pin: bool) -> Generator[Batch]:
        """The batches of steps `start` to `stop - 1` in order, prepared ahead by `workers`.

        Warns of items that are set aside: once, and at the end if more came since.

        Raises:
            UsageError, OSError, MemoryError: from the step whose data cannot be used; or a worker
                is lost.
        """
        loader = DataLoader(
            _Told(self),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            pin_memory=pin,
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        self._warn_of_bad()
        others = multiprocessing.active_children()
        batches = _started(loader)
        helpers = [one for one in multiprocessing.active_children() if one not in others]
        try:
            while (batch := _next(batches)) is not None:
                if isinstance(batch, Exception):
                    raise batch
                self._warn_of_bad()
                yield batch
        except GeneratorExit:  # who asked has enough
            pass
        finally:
            del batches  # which ends its workers
            for helper in helpers:  # and those that a lost one keeps from hearing of it
                helper.kill()
                helper.join()
        self._warn_of_bad(again=True)

    def _warn_of_bad(self, again: bool = False) -> None:
        for source in self.sources if self.ranks.is_first else ():
            if isinstance(source, OwnFiles):
                source.warn_of_bad(again=again)


def batches_of(
    recipe: Recipe,
    sources: Sequence[Source],
    draw_of: Callable[[Sequence[Stream]], DrawNoise],
    ranks: Ranks,
) -> tuple[Batches, Batches | None]:
    """The batches that a recipe trains on, and those that it is validated on, where it says so.

    Args:
        sources: of the recipe's `streams`.
        draw_of: from some streams to the random part of their batches.
    """
    count = len(recipe.data)
    trained = Batches(recipe.seed, recipe.data, draw_of(recipe.data), ranks, sources[:count])
    if recipe.validation is None:
        return trained, None
    seed, streams = seed_of(recipe.seed, "validation"), [recipe.validation.data]
    try:
        return trained, Batches(seed, streams, draw_of(streams), ranks, sources[count:])
    except UsageError as error:
        raise UsageError(f"validation.data: {error}") from None


def _kind_of(source: Source) -> str:
    lengths = {frames for frames, _, _ in source.sizes}
    if 1 not in lengths:
        return "video"
    return "image" if lengths == {1} else "mixed"


def _started(loader: DataLoader[Batch | Exception]) -> Iterator[Batch | Exception]:
    """The loader's batches; a worker that is lost is noticed when its batch is waited for.

    torch would notice it at once, by a handler of SIGCHLD that raises wherever the process is just
    then: while it writes a checkpoint, or holds a lock that the other workers wait for.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    batches = iter(loader)
    if is_main and handler is not None:
        signal.signal(signal.SIGCHLD, handler)
    return batches


def _next(batches: Iterator[Batch | Exception]) -> Batch | Exception | None:
    """The next batch or what is raised in its place; None at the end."""
    try:
        return next(batches, None)
    except Exception as error:  # torch's own, of many kinds: those of workers are handed on
        reason = " ".join(str(error).split()) or type(error).__name__
    return ChildProcessError(f"a worker that reads data is lost, as when memory runs out: {reason}")


class _Told(Dataset[Batch | Exception]):
    """Hands on what was raised: torch would put a worker's traceback into the error's message."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self.batches[step]
        except Exception as error:  # whatever it is, it is raised where the batch is asked for
            return _portable(error, step)


def _portable(error: Exception, step: int) -> Exception:
    """An error as it may go from process to process; without memory it says what would help."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        what = f"reading the samples of step {step}"
        return MemoryError(f"{what}; fewer workers or a smaller batch_size take less")
    if get_worker_info() is None or isinstance(error, UsageError):
        return error
    is_plain = type(error).__module__ == "builtins"
    if is_plain and isinstance(error, OSError):
        return error
    told = error if is_plain else RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C, and the SIGTERM of `torchrun` and Slurm, reach the whole process group."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

"""Batches of the world's samples as a function of (seed, step)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from statefilm.data.world import sample_batch
from statefilm.training.objectives import Draw
from statefilm.training.parallel import Ranks
from statefilm.training.randomness import choose_stream, generator_of, seed_of
from statefilm.training.recipe import Stream

__all__ = ["Batch", "Batches", "DrawNoise"]

# From a stream's number and one generator a sample to the random part of a batch.
DrawNoise = Callable[[int, list[torch.Generator]], Draw]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's data.

    Attributes:
        stream: the number of the stream it comes from.
        captions: B texts, empty where the caption is dropped.
        frames: [B, 3, T, H, W] in [-1, 1].
        noise: [B, C, t, h, w], of the latents' shape.
        level: [B], noise levels in (0, 1).
    """

    stream: int
    captions: list[str]
    frames: Tensor
    noise: Tensor
    level: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch with its tensors in page-locked memory; the loader calls this by name."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        frames, noise, level = map(change, (self.frames, self.noise, self.level))
        return replace(self, frames=frames, noise=noise, level=level)


class Batches(Dataset[Batch]):
    """The batch of every step. Sample i of a step has the global index step * batch_size + i.

    Args:
        seed: of the run.
        streams: the recipe's `data`.
        draw: the random part of a batch; sent to worker processes, so it holds no weights.
        ranks: a batch holds this process's share of the step's samples.

    Raises:
        UsageError: the ranks cannot share a stream's batches evenly.
    """

    def __init__(
        self, seed: int, streams: Sequence[Stream], draw: DrawNoise, ranks: Ranks | None = None
    ) -> None:
        self.seed, self.streams, self.draw = seed, tuple(streams), draw
        self.ranks = ranks or Ranks()
        for stream in self.streams:
            self.ranks.share(0, stream.batch_size)

    def __getitem__(self, step: int) -> Batch:
        number = choose_stream(self.seed, step, [stream.weight for stream in self.streams])
        return self.batch(number, step)

    def batch(self, number: int, step: int) -> Batch:
        """The batch that a step holds if it draws from stream `number`."""
        stream = self.streams[number]
        start, count = self.ranks.share(step * stream.batch_size, stream.batch_size)
        source = seed_of(self.seed, "world", number)
        world = sample_batch(source, start, count, **stream.world.model_dump())
        indices = range(start, start + count)
        draw = self.draw(number, [generator_of(self.seed, "noise", number, i) for i in indices])
        pairs = zip(world.captions, draw.dropped.tolist(), strict=True)
        captions = ["" if dropped else caption for caption, dropped in pairs]
        return Batch(number, captions, world.frames, draw.noise, draw.level)

    def loader(self, start: int, stop: int, workers: int, pin: bool) -> Iterator[Batch]:
        """The batches of steps `start` to `stop - 1` in order, prepared ahead by `workers`."""
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=workers,
            pin_memory=pin,
            worker_init_fn=_ignore_interrupt,
        )
        return iter(loader)


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer alone answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

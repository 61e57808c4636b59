"""Data parallelism over the processes that `torchrun` starts; alone, every call here is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from statefilm.errors import UsageError

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: 0 to size - 1; rank 0 writes files and speaks.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Ranks:
        """Meet the other processes, if `torchrun` started this one."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), size)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, start: int, count: int) -> tuple[int, int]:
        """This rank's (start, count) of the samples start ... start + count - 1.

        Raises:
            UsageError: the ranks cannot share them evenly.
        """
        if count % self.size:
            raise UsageError(
                f"batch_size {count} cannot be shared by {self.size} processes: "
                f"the nearest valid is {-(-count // self.size) * self.size}"
            )
        part = count // self.size
        return start + self.rank * part, part

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the ranks."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def agree(self, *values: float) -> list[float]:
        """Rank 0's values, on every rank: clocks and signals differ from process to process."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            shared = shared.cuda()
        dist.broadcast(shared, src=0)
        return shared.tolist()

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for the others, then part from them."""
        self.wait()
        if self.size > 1:
            dist.destroy_process_group()

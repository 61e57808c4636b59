"""Data parallelism over the processes that `torchrun` starts; alone, every call here is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from statefilm.errors import UsageError

__all__ = ["Ranks"]

PATIENCE = timedelta(hours=1)  # the others wait while rank 0 saves and draws samples


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
        """Meet the other processes, if `torchrun` started this one; each takes a GPU of its own.

        Raises:
            UsageError: several processes were told to use one and the same GPU.
        """
        if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
            return cls()
        if device.type == "cuda":
            if device.index is not None:
                raise UsageError(f"device {device} is one for all processes: give cuda or auto")
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

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

    def agree(self, clock: float, stop: bool) -> tuple[float, bool]:
        """Rank 0's clock and whether any rank wants to stop; the same on every rank."""
        if self.size == 1:
            return clock, stop
        shared = torch.tensor([clock if self.is_first else 0.0, float(stop)], dtype=torch.float64)
        if dist.get_backend() == "nccl":
            shared = shared.cuda()
        dist.all_reduce(shared)
        total, votes = shared.tolist()
        return total, votes > 0

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for the others, then part from them."""
        self.wait()
        if self.size > 1:
            dist.destroy_process_group()

"""The processes that `torchrun` starts: who shares which samples, and how they agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from statefilm.errors import UsageError
from statefilm.training.parallel.watch import Watch, told_of_loss
from statefilm.training.recipe import Parallel

__all__ = ["Ranks"]

# Within a step no process lags further behind; where they wait for files, they do so in `control`.
STEP_PATIENCE = timedelta(minutes=10)
# In messages about lost processes.
LOST = ("gloo", "NCCL", "onnection", "Broken pipe", "imed out", "timeout")


class Groups(NamedTuple):
    """What the processes of a run talk through; all but meshes over the CPU, whatever the device.

    Attributes:
        parameters: [replicate, shard x context] processes, for FSDP2.
        tokens: [replicate x shard, context] processes, for context parallelism.
        control: a word at each step.
        saving: of checkpoints, which may be written from a thread.
        watch: tells of lost processes.
        owned: whether the run has opened the connections, and so closes them.
    """

    parameters: DeviceMesh
    tokens: DeviceMesh
    control: dist.ProcessGroup
    saving: dist.ProcessGroup
    watch: Watch
    owned: bool


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; alone, every exchange here is a no-op.

    Attributes:
        rank: 0 to size - 1; rank 0 writes files and speaks. The processes of a context group
            follow one another, then those of a shard group.
        size: number of processes, replicate x shard x context.
        shard, context: see `recipe.Parallel`.
    """

    rank: int = 0
    size: int = 1
    shard: int = 1
    context: int = 1
    groups: Groups | None = field(default=None, compare=False, repr=False)

    @classmethod
    def join(cls, device: torch.device, sizes: Parallel | None = None) -> Ranks:
        """Meet the other processes, if `torchrun` started this one; each takes a GPU of its own.

        Raises:
            UsageError: the sizes do not multiply to the number of processes, or several processes
                were told to use one and the same GPU.
            ConnectionError: not all processes came.
        """
        sizes = sizes or Parallel()
        launched = dist.is_torchelastic_launched()
        size = int(os.environ["WORLD_SIZE"]) if launched else 1
        replicate, shard = fill_sizes(sizes, size)
        if size == 1:
            return cls()
        if device.type == "cuda":
            if device.index is not None:
                raise UsageError(f"device {device} is one for all processes: give cuda or auto")
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        try:
            groups = _meet(device.type, replicate, shard, sizes)
        except RuntimeError as error:
            raise ConnectionError(
                f"process {os.environ['RANK']}: not all of {size} processes came, or one left "
                f"({_first_line(error)})"
            ) from error
        return cls(dist.get_rank(), size, shard, sizes.context, groups)

    def __getstate__(self) -> dict[str, Any]:
        """Workers of a data loader share batches and exchange nothing."""
        return {**self.__dict__, "groups": None}

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def in_step(self) -> bool:
        """Whether a model runs on all processes together, or else on each by itself."""
        return self.shard > 1 or self.context > 1

    @property
    def sample_parts(self) -> int:
        """Into how many parts each batch is shared: processes of a context group have the same."""
        return self.size // self.context

    @property
    def writers(self) -> int:
        """How many processes, from rank 0 on, hold all parameters between them."""
        return self.shard * self.context if self.shard > 1 else 1

    def share(self, start: int, count: int) -> tuple[int, int]:
        """This rank's (start, count) of the samples start ... start + count - 1.

        Raises:
            UsageError: the ranks cannot share them evenly.
        """
        parts = self.sample_parts
        if count % parts:
            raise UsageError(
                f"batch_size {count} cannot be shared by {parts} processes: "
                f"the nearest valid is {-(-count // parts) * parts}"
            )
        part = count // parts
        return start + self.rank // self.context * part, part

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, in one exchange.

        Of sharded parameters nothing is left to do: FSDP2 has done it.
        """
        if self.size == 1 or self.shard > 1:
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
        seconds, votes = self._highest(clock if self.is_first else 0.0, stop)
        return seconds, votes > 0

    def any(self, truth: bool) -> bool:
        """Whether it is true on any rank."""
        return self._highest(truth)[0] > 0

    def same(self, number: int) -> bool:
        """Whether all ranks name the same number."""
        highest, lowest = self._highest(number, -number)
        return highest == -lowest

    def gather_text(self, text: str) -> list[str]:
        """The text of every rank, in the order of ranks."""
        if self.groups is None:
            return [text]
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        longest = int(self._highest(len(data))[0])
        padded = torch.zeros(longest, dtype=torch.uint8)  # no text holds a zero
        padded[: len(data)] = data
        rows = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(rows, padded, group=self.groups.control)
        return [bytes(row.tolist()).rstrip(b"\0").decode() for row in rows]

    def together(self, action: Callable[[], object]) -> None:
        """Write files: done when all ranks have done it, failed when one has.

        Raises:
            OSError: the action could not write here, or elsewhere; one line.
        """
        error: OSError | SafetensorError | None = None
        try:
            action()
        except (OSError, SafetensorError) as caught:
            error = caught
        failures = torch.tensor([0 if error is None else 1])
        if self.groups is not None:
            dist.all_reduce(failures, group=self.groups.saving)
        if error is not None:
            raise OSError(" ".join(str(error).split())) from error
        if failures:
            raise OSError(f"process {self.rank}: another process could not write its part")

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.groups is not None:
            dist.barrier(group=self.groups.control)

    @contextmanager
    def loud(self) -> Iterator[None]:
        """Say in one line that another process is gone, where its loss is what went wrong.

        All processes enter it together. One that waits for a lost one where nothing goes wrong,
        as in NCCL, says the same and exits with code 1; see `Watch`.

        Raises:
            ConnectionError: in place of what torch says of broken or silent connections.
        """
        try:
            if self.groups is not None:
                self.groups.watch.start()
            yield
        except RuntimeError as error:
            if self.size > 1 and any(sign in str(error) for sign in LOST):
                raise ConnectionError(
                    told_of_loss(self.rank, self.size, _first_line(error))
                ) from error
            raise
        finally:
            if self.groups is not None:
                self.groups.watch.stop()

    def leave(self) -> None:
        """Wait for the others, then part from them."""
        self.wait()
        if self.groups is None:
            return
        self.groups.watch.stop()
        if self.groups.owned:
            dist.destroy_process_group()

    def _highest(self, *values: float) -> list[float]:
        """The highest of all ranks' values, one by one."""
        if self.groups is None:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.groups.control)
        return shared.tolist()


def _meet(kind: str, replicate: int, shard: int, sizes: Parallel) -> Groups:
    """Open the connections to all other processes, whose devices are of one kind."""
    patience = timedelta(minutes=sizes.timeout_minutes)
    owned = not dist.is_initialized()
    if owned:
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=min(patience, STEP_PATIENCE))

    def mesh(outer: int, inner: int, names: tuple[str, str]) -> DeviceMesh:
        return init_device_mesh(kind, (outer, inner), mesh_dim_names=names)

    parameters = mesh(replicate, shard * sizes.context, ("replicate", "parts"))
    tokens = mesh(replicate * shard, sizes.context, ("samples", "context"))
    control, saving = (dist.new_group(backend="gloo", timeout=patience) for _ in range(2))
    watch = Watch(dist.get_rank(), dist.get_world_size(), control)
    return Groups(parameters, tokens, control, saving, watch, owned)


def fill_sizes(sizes: Parallel, processes: int) -> tuple[int, int]:
    """(replicate, shard) with what is null filled in.

    Raises:
        UsageError: the sizes do not multiply to the number of processes.
    """
    given = (sizes.replicate or 1) * (sizes.shard or 1) * sizes.context
    open_ended = sizes.replicate is None or sizes.shard is None
    if processes % given or (given != processes and not open_ended):
        asked = f"parallel.replicate {sizes.replicate} x shard {sizes.shard}"
        raise UsageError(
            f"{asked} x context {sizes.context} does not fit {processes} process"
            f"{'es' * (processes > 1)}: give sizes that multiply to it, or start "
            f"{'a multiple of ' * open_ended}{given} with torchrun --nproc-per-node"
        )
    left = processes // given
    return sizes.replicate or left, sizes.shard or left


def _first_line(error: Exception) -> str:
    """The start of a message, without its traceback in C++."""
    return str(error).strip().splitlines()[0][:200]

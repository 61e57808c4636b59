"""Named tensors of one or many processes as safetensors: each writes its rows, any reads any rows.

Not torch.distributed.checkpoint: its index is a pickle, and its safetensors form keeps none of the
whole shapes and needs all processes to plan a read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from statefilm.errors import UsageError
from statefilm.training.parallel import Ranks
from statefilm.training.parallel.sharding import local, rows_before

__all__ = ["Rows", "TensorFiles", "fill", "own_rows", "write_tensors"]

PART_OF = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


class Rows(NamedTuple):
    """Rows of a tensor: those from `start` on, of `total`; a whole tensor has start 0, total -1."""

    values: Tensor
    start: int = 0
    total: int = -1


def own_rows(tensors: Mapping[str, Tensor], ranks: Ranks, copy: bool) -> dict[str, Rows]:
    """What this process has to write: its rows of sharded tensors; whole ones are rank 0's.

    Args:
        tensors: the same names on all processes.
        copy: to the CPU, so that it stays as it is now.
    """
    own = {}
    for name, tensor in tensors.items():
        values, place, mine = local(tensor.detach()), (0, -1), ranks.is_first
        if isinstance(tensor, DTensor):
            place, mine = (rows_before(tensor), tensor.shape[0]), len(values) > 0
        if mine:
            values = values.to("cpu", copy=True) if copy else values
            own[name] = Rows(values.contiguous(), *place)
    return own


def write_tensors(folder: Path, name: str, rows: Mapping[str, Rows], ranks: Ranks) -> None:
    """Write this process's rows as `NAME.safetensors`, or as one of the files that make it up.

    Of several copies of the parameters, only the first is written.
    """
    writers = ranks.writers
    if ranks.rank >= writers:
        return
    part = f"-{ranks.rank + 1:05d}-of-{writers:05d}" if writers > 1 else ""
    places = {n: [r.start, r.total] for n, r in rows.items() if r.total >= 0}
    save_file(
        {n: r.values for n, r in rows.items()},
        folder / f"{name}{part}.safetensors",
        metadata={"rows": json.dumps(places)} if places else None,
    )


class TensorFiles(Mapping[str, Tensor]):
    """The tensors that `write_tensors` wrote, read when they are asked for.

    Args:
        folder, name: as they were given.

    Raises:
        UsageError: a file is missing or damaged, or rows are; names the file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.files = _find(folder, name)
        self._pieces: dict[str, list[tuple[int, int, Path]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self._index(file)
        for tensor, pieces in self._pieces.items():
            pieces.sort()
            ends = [0] + [start + count for start, count, _ in pieces]
            starts = [start for start, _, _ in pieces] + list(self._shapes[tensor][:1] or [1])
            if ends != starts:
                raise UsageError(f"{self.files[0]}: rows of {tensor!r} are missing")

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._pieces:
            raise KeyError(name)
        if not self._shapes[name]:
            with _opened(self._pieces[name][0][2]) as file:
                return file.get_tensor(name)
        return self.rows(name, 0, self._shapes[name][0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        return self._shapes[name]

    def rows(self, name: str, start: int, count: int) -> Tensor:
        """Rows start ... start + count - 1 of a tensor, from whatever files hold them."""
        found = []
        for first, length, path in self._pieces[name]:
            low, high = max(start, first), min(start + count, first + length)
            if low < high:
                with _opened(path) as file:
                    found.append(file.get_slice(name)[low - first : high - first])
        return torch.cat(found) if found else torch.empty(0, *self._shapes[name][1:])

    def _index(self, path: Path) -> None:
        """Learn what a file holds."""
        try:
            with _opened(path) as file:
                places = json.loads((file.metadata() or {}).get("rows", "{}"))
                for name in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                    shape = tuple(file.get_slice(name).get_shape())
                    start, total = places.get(name, (0, shape[0] if shape else 1))
                    count = shape[0] if shape else 1
                    self._pieces.setdefault(name, []).append((start, count, path))
                    self._shapes[name] = (total, *shape[1:]) if shape else ()
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{path}: damaged or truncated safetensors file ({reason})") from None


def fill(target: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy a tensor, or this process's rows of it, into one of its whole shape."""
    here = local(target.detach())
    if not isinstance(target, DTensor):
        values = tensors[name]
    elif isinstance(tensors, TensorFiles):
        values = tensors.rows(name, rows_before(target), here.shape[0])
    else:
        values = tensors[name][rows_before(target) :][: here.shape[0]]
    here.copy_(values)


def _opened(path: Path) -> safe_open:
    return safe_open(path, framework="pt")


def _find(folder: Path, name: str) -> list[Path]:
    """The files that make up NAME.safetensors, in order."""
    single = folder / f"{name}.safetensors"
    parts = sorted(folder.glob(f"{name}-*-of-*.safetensors"))
    if not parts:
        return [single]
    match = PART_OF.fullmatch(parts[0].name)
    assert match is not None
    total = int(match[3])
    wanted = [folder / f"{name}-{i + 1:05d}-of-{total:05d}.safetensors" for i in range(total)]
    for path in wanted:
        if path not in parts:
            raise UsageError(f"{path}: missing")
    return wanted

"""Shards: safetensors files named after their own bytes, whose rows are found by key.

A shard comes into being by one renaming, and its tensor `key` says what it holds: no other file
has to agree with it, so that a folder of shards is whole whenever the writing of it stopped. Its
tensor `check` holds a checksum for each row, which is compared whenever the row is read.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from statefilm.errors import UsageError

__all__ = [
    "ENDS",
    "KEY_BYTES",
    "Shards",
    "digest_of",
    "key_of",
    "keys_in",
    "shard_files",
    "write_shard",
]

KEY_BYTES = 16
ENDS = "ends"
CHECK = "check"
_CHUNK = 1 << 20


def key_of(*parts: object) -> str:
    """A name of 32 hexadecimal digits for what all the parts, JSON values, decide together."""
    return blake2b(json.dumps(parts).encode(), digest_size=KEY_BYTES).hexdigest()


def digest_of(file: Path) -> str:
    """The name that a shard of these bytes has."""
    digest = blake2b(digest_size=KEY_BYTES)
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_shard(folder: Path, keys: Sequence[str], tensors: Mapping[str, Tensor]) -> Path:
    """Write one shard, whole or not at all; the folder is made.

    Args:
        keys: N different names of `key_of`, of the rows of the tensors.
        tensors: each with N rows; or one tensor of rows of several lengths, one after the other,
            and int64 `ENDS` [N], where each of them ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = torch.frombuffer(bytearray.fromhex("".join(keys)), dtype=torch.uint8)
    rows = {name: tensor.contiguous() for name, tensor in tensors.items()}
    rows[CHECK] = torch.tensor([_checksum(key, _row(rows, i)) for i, key in enumerate(keys)])
    part = folder / f".{keys[0]}.{os.getpid()}.part"
    try:
        save_file({**rows, "key": table.view(-1, KEY_BYTES)}, part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        shard = folder / f"{digest_of(part)}.safetensors"
        os.replace(part, shard)
    finally:
        part.unlink(missing_ok=True)
    return shard


def keys_in(shard: Path) -> list[str]:
    """The keys of a shard's rows.

    Raises:
        UsageError: the shard is damaged.
    """
    table = _read(shard, ("key",))["key"]
    if table.dtype != torch.uint8 or table.shape[1:] != (KEY_BYTES,):
        raise UsageError(f"{shard}: its keys are not of {KEY_BYTES} bytes each")
    digits, step = table.numpy().tobytes().hex(), 2 * KEY_BYTES
    return [digits[i : i + step] for i in range(0, len(digits), step)]


def shard_files(folder: Path) -> list[Path]:
    """The shards of a folder, by name."""
    return sorted(folder.glob("*.safetensors"))


class Shards:
    """The rows of shards, memory-mapped at first use; goes to worker processes without them."""

    def __init__(self) -> None:
        self._open: dict[Path, dict[str, Tensor]] = {}

    def row(self, shard: Path, number: int) -> dict[str, Tensor]:
        """One row of each tensor, by name.

        Raises:
            UsageError: the shard is gone, or the row is not what was written.
        """
        if shard not in self._open:
            self._open[shard] = _read(shard)
        tensors = self._open[shard]
        try:
            key = tensors["key"][number].numpy().tobytes().hex()
            row = _row(tensors, number)
            if int(tensors[CHECK][number]) == _checksum(key, row):
                return row
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError):
            pass  # of other shapes or dtypes than were written
        raise _damaged(shard, f"row {number} is not what was written")

    def __getstate__(self) -> dict[str, object]:
        return {"_open": {}}


def _read(shard: Path, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensors of a shard, by default all: views of the file, read when they are looked at."""
    try:
        with safe_open(shard, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names or file.keys()}
    except (SafetensorError, OSError) as error:
        raise _damaged(shard, str(error).splitlines()[0]) from None


def _row(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Row `number` of tensors that are `write_shard`'s."""
    stretch: int | slice = number
    if ENDS in tensors:
        start = int(tensors[ENDS][number - 1]) if number else 0
        stretch = slice(start, int(tensors[ENDS][number]))
    apart = ("key", CHECK, ENDS)
    return {name: tensor[stretch] for name, tensor in tensors.items() if name not in apart}


def _checksum(key: str, row: Mapping[str, Tensor]) -> int:
    found = zlib.crc32(key.encode())
    for name in sorted(row):
        value = row[name].contiguous()
        found = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), found)
        found = zlib.crc32(value.view(-1).view(torch.uint8).numpy().data, found)
    return found


def _damaged(shard: Path, reason: str) -> UsageError:
    return UsageError(
        f"{shard}: damaged shard ({reason}); delete it and run statefilm encode again"
    )

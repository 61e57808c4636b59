"""Clips as arrays of bytes, in .npy files or as one tensor in a .pt file; nothing is unpickled."""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from statefilm.errors import UsageError

__all__ = ["ARRAYS", "ArrayHeader", "array_header", "read_clip"]

ARRAYS = frozenset({".npy", ".pt"})
_CHANNELS = (1, 3, 4)
_ZIP_HEADER = 30  # bytes of a local file header up to its two variable fields


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """An array of bytes in a file: where it starts, and its shape in C order.

    The shape is that of one clip, [T, H, W] or [T, H, W, C] with C of 1, 3 or 4; of several,
    [N, T, H, W, C]; or that of Moving MNIST (Srivastava et al. 2015), [T, N, H, W].
    """

    start: int
    shape: tuple[int, ...]

    @property
    def clips(self) -> int:
        """How many clips the array holds."""
        if len(self.shape) == 5:
            return self.shape[0]
        return self.shape[1] if self._is_moving_mnist else 1

    @property
    def frames(self) -> int:
        """T of each clip."""
        return self.shape[1] if len(self.shape) == 5 else self.shape[0]

    @property
    def picture(self) -> tuple[int, ...]:
        """Shape of one frame: (H, W) or (H, W, C)."""
        if self._is_moving_mnist:
            return self.shape[2:]
        return self.shape[2:] if len(self.shape) == 5 else self.shape[1:]

    def place(self, clip: int, frame: int) -> int:
        """Where in the file a frame of a clip starts."""
        if self._is_moving_mnist:
            number = frame * self.clips + clip
        else:
            number = clip * self.frames + frame
        return self.start + number * math.prod(self.picture)

    @property
    def _is_moving_mnist(self) -> bool:
        return len(self.shape) == 4 and self.shape[-1] not in _CHANNELS


def array_header(file: BinaryIO, size: int) -> ArrayHeader:
    """Where the bytes of an array lie in a file of `size` bytes.

    Raises:
        UsageError: it is no array of bytes in C order, has no clip's shape, or is cut short.
    """
    file.seek(0)
    header = _pt_header(file) if file.read(2) == b"PK" else _npy_header(file)
    if len(header.shape) not in (3, 4, 5) or 0 in header.shape:
        raise UsageError(f"shape {list(header.shape)} is not that of a clip")
    if len(header.shape) == 5 and header.shape[-1] not in _CHANNELS:
        raise UsageError(f"{header.shape[-1]} channels are not 1, 3 or 4")
    if header.start + math.prod(header.shape) > size:
        raise UsageError("its data are cut short")
    return header


def read_clip(file: BinaryIO, size: int, clip: int, frames: Sequence[int]) -> list[np.ndarray]:
    """Some frames of a clip, each uint8 [H, W] or [H, W, C]; only their bytes are read."""
    header = array_header(file, size)
    pictures = []
    for frame in frames:
        file.seek(header.place(clip, frame))
        data = file.read(math.prod(header.picture))
        pictures.append(np.frombuffer(data, np.uint8).reshape(header.picture))
    return pictures


def _npy_header(file: BinaryIO) -> ArrayHeader:
    file.seek(0)
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise UsageError(f"version {version[0]}.{version[1]} of .npy is not 1.0 or 2.0")
    shape, is_fortran, dtype = read(file)
    if dtype != np.uint8:
        raise UsageError(f"an array of {dtype} is not one of bytes (uint8)")
    if is_fortran:
        raise UsageError("the array is in Fortran order: save it in C order")
    return ArrayHeader(file.tell(), shape)


def _pt_header(file: BinaryIO) -> ArrayHeader:
    """Of what `torch.save` makes of one tensor: its description is scanned, never run."""
    with zipfile.ZipFile(file) as archive:
        named = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        description, data = named.get("data.pkl"), named.get("data/0")
        if description is None or data is None or "data/1" in named:
            raise UsageError("is not a .pt file of one tensor")
        if data.compress_type != zipfile.ZIP_STORED or description.file_size > 1 << 16:
            raise UsageError("is not a .pt file as torch.save writes it")
        shape = _tensor_shape(archive.read(description))
    if data.file_size != math.prod(shape):
        raise UsageError(f"{data.file_size} bytes are not those of shape {list(shape)}")
    file.seek(data.header_offset + _ZIP_HEADER - 4)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return ArrayHeader(data.header_offset + _ZIP_HEADER + name + extra, shape)


def _tensor_shape(description: bytes) -> tuple[int, ...]:
    """The shape of a contiguous byte tensor, from the instructions that would build it."""
    steps = [(code.name, value) for code, value, _ in pickletools.genops(description)]
    names = {value for code, value in steps if code == "GLOBAL"}
    if not {"torch._utils _rebuild_tensor_v2", "torch ByteStorage"} <= names:
        raise UsageError("is not a .pt file of one tensor of bytes (uint8)")
    start = next(i for i, (code, _) in enumerate(steps) if code == "BINPERSID")
    numbers = [int(str(value)) for code, value in steps[start:] if code.startswith("BININT")]
    offset, rest = numbers[0], numbers[1:]
    shape, strides = tuple(rest[: len(rest) // 2]), rest[len(rest) // 2 :]
    dense = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if offset != 0 or strides != dense:
        raise UsageError("the tensor is a view: save a contiguous one")
    return shape

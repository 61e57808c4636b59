"""Model folders: what is safe to load, and the hash of the weights."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from statefilm.errors import UsageError
from statefilm.models.weights import check_weights, weight_files

__all__ = ["check_folder", "model_hash", "read_index"]

# Formats that can run code when they are read.
UNSAFE_SUFFIXES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".py"}


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a pipeline folder that is not whole, or that holds more than data.

    Every safetensors file is read once: a truncated one, or one with NaN or infinity, is named.

    Raises:
        FileNotFoundError: no such folder.
        UsageError: no `model_index.json`, pickles or code in the folder, or damaged weights.
    """
    folder = Path(folder)
    read_index(folder)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            raise UsageError(f"{path}: only safetensors weights are loaded, never pickles or code")
    check_weights(folder)


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` of a pipeline folder: its class, its components and its defaults.

    Raises:
        FileNotFoundError: no such folder.
        UsageError: the file is missing or damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"model folder not found: {folder}")
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise UsageError(f"{folder} is not a model folder: it has no model_index.json")
    try:
        index = json.loads(index_file.read_text("utf-8"))
        if not isinstance(index, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UsageError(f"{index_file}: damaged JSON ({error})") from None
    return index


def model_hash(folder: str | os.PathLike[str]) -> str:
    """SHA-256 over all safetensors of a folder, names and bytes; repeated calls are free."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for path in weight_files(folder):
        stat = path.stat()
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(_file_hash(path, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _file_hash(path: Path, size: int, mtime_ns: int) -> bytes:
    """A file's SHA-256, kept while size and time of change stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

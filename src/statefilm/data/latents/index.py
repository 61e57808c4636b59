"""The index of encoded samples: JSON lines under a head that says how they were encoded."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from statefilm.data.files.buckets import Bucket
from statefilm.data.latents.store import key_of
from statefilm.errors import UsageError

__all__ = ["INDEX", "Encoding", "Index", "Row", "read_index", "write_index"]

INDEX = "index.jsonl"
_FORMAT = 1  # to be raised when the same files would give other latents


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """All that latents and text states depend on beside the sample.

    Attributes:
        vae: a hash of the VAE's files; None where the frames themselves are kept.
        text: a hash of the text encoder's files; None where there are no text states.
        max_length: tokens kept of a caption.
        precision: "float32" or "bfloat16", what was computed in.
        dtype: "float32" or "bfloat16", what is stored.
        posterior: whether the spread of the VAE's code is stored with its mean.
    """

    vae: str | None = None
    text: str | None = None
    max_length: int = 32
    precision: str = "float32"
    dtype: str = "bfloat16"
    posterior: bool = False

    def latent_key(self, *sample: object) -> str:
        """The key of a sample's latents."""
        numbers = (self.precision, self.dtype, self.posterior)
        return key_of(_FORMAT, "latent", self.vae, *numbers, *sample)

    def text_key(self, caption: str) -> str:
        """The key of a caption's states."""
        numbers = (self.max_length, self.precision, self.dtype)
        return key_of(_FORMAT, "text", self.text, *numbers, caption)


@dataclass(frozen=True, slots=True)
class Row:
    """One sample.

    Attributes:
        key: of its latents.
        name: of the entry in the data.
        view: which of the entry's crops and moments it shows; 0 is the one in the middle.
        bucket: the size of its frames.
        captions: none where nothing was written about it.
        label: the number of its class; -1 where it has none.
    """

    key: str
    name: str
    view: int
    bucket: Bucket
    captions: tuple[str, ...] = ()
    label: int = -1


@dataclass(frozen=True, slots=True)
class Index:
    """The rows of a finished encoding, in the order of the data, and what made them."""

    encoding: Encoding
    rows: tuple[Row, ...]
    made: dict[str, Any]


def write_index(folder: Path, index: Index) -> None:
    """Write an index whole or not at all."""
    body = "".join(json.dumps(asdict(row)) + "\n" for row in index.rows)
    head = {"format": _FORMAT, "encoding": asdict(index.encoding), "made": index.made}
    head["sum"] = _sum(head, body)
    part = folder / f".{INDEX}.{os.getpid()}.part"
    try:
        part.write_text(f"{json.dumps(head)}\n{body}", "utf-8")
        os.replace(part, folder / INDEX)
    finally:
        part.unlink(missing_ok=True)


def read_index(folder: Path) -> Index:
    """The index of a folder.

    Raises:
        FileNotFoundError: no such folder.
        UsageError: its encoding was not finished; or the index is damaged or of another version.
    """
    file = folder / INDEX
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder of latents: {folder}")
    if not file.is_file():
        raise UsageError(f"{folder} has no {INDEX}: statefilm encode has not finished there")
    try:
        first, _, body = file.read_text("utf-8").partition("\n")
        head = json.loads(first)
        if head["format"] != _FORMAT:
            raise UsageError(f"{file}: is of format {head['format']!r}, not {_FORMAT}")
        if head.pop("sum") != _sum(head, body):
            raise ValueError("the lines are not those that were written")
        rows = tuple(_row(json.loads(line)) for line in body.splitlines())
        return Index(Encoding(**head["encoding"]), rows, dict(head["made"]))
    except UsageError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{file}: damaged ({reason}); run statefilm encode again, which mends it"
        ) from None


def _row(fields: dict[str, Any]) -> Row:
    bucket, captions = Bucket(**fields["bucket"]), tuple(fields["captions"])
    return Row(**{**fields, "bucket": bucket, "captions": captions})


def _sum(head: dict[str, Any], body: str) -> str:
    return blake2b((json.dumps(head) + body).encode(), digest_size=16).hexdigest()

"""Whether encoded data are what they were when they were written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from statefilm.data.latents.index import read_index
from statefilm.data.latents.samples import LATENTS, TEXT
from statefilm.data.latents.store import digest_of, keys_in, shard_files

__all__ = ["Check", "verify"]


@dataclass(frozen=True, slots=True)
class Check:
    """What `verify` found.

    Attributes:
        samples: rows of the index.
        shards: how many there are, of latents and of text.
        size: their bytes.
        damaged: paths of the shards whose bytes have changed.
        missing: names of the samples whose latents, and captions whose states, no shard holds.
        unused: rows in shards that the index does not name, as of files that were taken away.
    """

    samples: int
    shards: int
    size: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    unused: int

    @property
    def is_whole(self) -> bool:
        """Whether all that the index names can be read."""
        return not self.damaged and not self.missing


def verify(folder: str | Path, advance: Callable[[], object] = lambda: None) -> Check:
    """Read every byte of an encoding and compare it with the names of the files and the index.

    Args:
        advance: called after each shard.

    Raises:
        FileNotFoundError, UsageError: see `read_index`.
    """
    folder = Path(folder)
    index = read_index(folder)
    wanted = {row.key: row.name for row in index.rows}
    if index.encoding.text is not None:
        for caption in {"", *(caption for row in index.rows for caption in row.captions)}:
            wanted[index.encoding.text_key(caption)] = f"caption {caption!r}"
    damaged: list[str] = []
    stored: set[str] = set()
    shards = [*shard_files(folder / LATENTS), *shard_files(folder / TEXT)]
    for shard in shards:
        if digest_of(shard) == shard.stem:
            stored.update(keys_in(shard))
        else:
            damaged.append(str(shard))
        advance()
    return Check(
        samples=len(index.rows),
        shards=len(shards),
        size=sum(shard.stat().st_size for shard in shards),
        damaged=tuple(damaged),
        missing=tuple(sorted(wanted[key] for key in wanted.keys() - stored)),
        unused=len(stored - wanted.keys()),
    )

"""Latents and text states computed ahead of training: shards, their index, and batches of them."""

from statefilm.data.latents.index import INDEX, Encoding, Index, Row, read_index, write_index
from statefilm.data.latents.samples import (
    LATENTS,
    TEXT,
    LatentBatch,
    LatentCache,
    LatentSamples,
    open_latents,
)
from statefilm.data.latents.store import (
    ENDS,
    Shards,
    key_of,
    keys_in,
    shard_files,
    write_shard,
)
from statefilm.data.latents.verify import Check, verify

__all__ = [
    "ENDS",
    "INDEX",
    "LATENTS",
    "TEXT",
    "Check",
    "Encoding",
    "Index",
    "LatentBatch",
    "LatentCache",
    "LatentSamples",
    "Row",
    "Shards",
    "key_of",
    "keys_in",
    "open_latents",
    "read_index",
    "shard_files",
    "verify",
    "write_index",
    "write_shard",
]

"""Folders of encoded samples whose numbers are known, written by hand."""

import pytest
import torch

from statefilm.data.files import Bucket
from statefilm.data.latents import (
    ENDS,
    LATENTS,
    TEXT,
    Encoding,
    Index,
    Row,
    key_of,
    write_index,
    write_shard,
)

BUCKETS = (Bucket(1, 16, 16), Bucket(5, 16, 24))
SHAPES = {BUCKETS[0]: (2, 1, 4, 4), BUCKETS[1]: (2, 3, 4, 6)}


@pytest.fixture
def save(tmp_path):
    """Writes a folder of samples; sample i's latents are all i, a caption's states its length."""

    def write(
        counts=(7, 4), posterior=False, text=True, name="latents", rows_a_shard=3, shape=None
    ):
        folder = tmp_path / name
        encoding = Encoding(vae="v", text="t" if text else None, posterior=posterior)
        rows = []
        for bucket, count in zip(BUCKETS, counts, strict=True):
            rows += [
                Row(
                    key_of(bucket.num_frames, i),
                    f"{bucket}/{i}.png",
                    0,
                    bucket,
                    (f"caption {i}", f"another of {i}") if i else (),
                    i % 2,
                )
                for i in range(count)
            ]
            own = rows[-count:]
            for start in range(0, count, rows_a_shard):
                part = own[start : start + rows_a_shard]
                levels = torch.arange(start, start + len(part)).float()
                mean = levels.view(-1, 1, 1, 1, 1).expand(-1, *(shape or SHAPES[bucket])).bfloat16()
                spread = {"logvar": torch.full_like(mean, -2.0)} if posterior else {}
                write_shard(folder / LATENTS, [r.key for r in part], {"mean": mean, **spread})
        if text:
            captions = sorted({"", *(caption for row in rows for caption in row.captions)})
            lengths = [1 + len(caption.split()) for caption in captions]
            states = [torch.full((n, 3), float(n)) for n in lengths]
            tensors = {
                "states": torch.cat(states).bfloat16(),
                ENDS: torch.tensor(lengths).cumsum(0),
            }
            write_shard(folder / TEXT, list(map(encoding.text_key, captions)), tensors)
        write_index(folder, Index(encoding, tuple(rows), {"version": "test"}))
        return folder

    return write

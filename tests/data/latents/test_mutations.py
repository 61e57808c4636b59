"""Mutated encodings: what is read is what was written, or it is refused in one line."""

import random
import shutil

import pytest
import torch

from statefilm.data.latents import open_latents
from statefilm.errors import UsageError

from ..mutations import COUNT, mutate


def everything(folder):
    """All rows: their latents, with the spread drawn, and the states of their captions."""
    cache = open_latents(folder)
    found = []
    for number, row in enumerate(cache.rows):
        latent = cache.latent(number, torch.Generator().manual_seed(number))
        found.append((row, latent, *cache.text(["", *row.captions])))
    return found


def same(one, other):
    return len(one) == len(other) and all(
        a[0] == b[0] and all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        for a, b in zip(one, other, strict=True)
    )


def test_mutated_encodings_are_refused_or_what_they_were(save, tmp_path):
    whole = save(posterior=True)
    expected = everything(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    draw = random.Random(0)
    refused = 0
    for number in range(COUNT // 3):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        file, other = draw.choice(files), draw.choice(files)
        before, donor = (whole / file).read_bytes(), (whole / other).read_bytes()
        (folder / file).write_bytes(mutate(before, donor, draw))
        try:
            assert same(everything(folder), expected), (number, file)
        except UsageError as error:
            message = str(error)
            assert "\n" not in message and len(message) < 1000, (number, file)
            refused += 1
    assert refused > COUNT / 6


@pytest.mark.parametrize("name", ["key", "check"])
def test_rows_whose_tables_are_gone_are_damaged(save, name):
    from safetensors.torch import load_file, save_file

    folder = save()
    for shard in sorted((folder / "latents").glob("*.safetensors")):
        tensors = load_file(shard)
        del tensors[name]
        save_file(tensors, shard)
    with pytest.raises(UsageError, match="damaged shard"):
        everything(folder)

"""A toy VAE, a toy text encoder and a folder of captioned files to encode."""

import numpy as np
import pytest
import torch
from PIL import Image

from statefilm.data.files import assign, make_buckets, open_source
from statefilm.models.text import build_text_encoder, build_word_tokenizer
from statefilm.models.vae import build_vae
from statefilm.training.latents import EncoderSpec, Options, encode_files

BUCKETS = make_buckets(16 * 16, 8, ratios=(1, 2), lengths=(1, 5))


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    """A folder with a VAE of 4 x 4 in space and 2 in time."""
    torch.manual_seed(0)
    fields = {"block_out_channels": (32, 32, 32), "latent_channels": 4, "scaling_factor": 0.5}
    folder = tmp_path_factory.mktemp("models") / "vae"
    build_vae("world_vae", **fields).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A folder with a tokenizer and a text encoder of width 16."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "text"
    tokenizer = build_word_tokenizer([f"{number}" for number in range(30)] + ["level of grey"])
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    encoder = build_text_encoder("world_t5", vocab_size=len(tokenizer), **sizes)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def spec(vae, text):
    return EncoderSpec(vae=vae, text=text, max_length=8, dtype="float32", device="cpu")


@pytest.fixture
def data(tmp_path):
    """Twelve pictures of two shapes and three clips."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(12):
        size = (20, 20) if number % 3 else (40, 20)
        Image.new("RGB", size, (20 * number, 99, 0)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"level {number}")
    clips = np.random.default_rng(0).integers(0, 255, (3, 9, 20, 20, 3), np.uint8)
    np.save(folder / "clips.npy", clips)
    return folder


@pytest.fixture
def encode(tmp_path, data, spec):
    """Encodes the data into a folder; changes go to `encode_files`, `Options` or `EncoderSpec`."""

    def run(folder="latents", *, encoders=spec, options=None, assigned=None, **changes):
        source = open_source(data)
        assigned = assigned or {"buckets": BUCKETS}
        options = {"batch_size": 3, "shard_size": 1000, **(options or {})}
        return encode_files(
            source,
            assign(source.entries, **assigned),
            encoders,
            tmp_path / folder,
            Options(**options),
            **changes,
        )

    return run

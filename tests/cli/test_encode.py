"""`statefilm encode`: from a recipe to a folder of latents, its checks and its refusals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from statefilm.cli.encode import parse_size
from statefilm.data.files import BucketPlan
from statefilm.data.latents import LatentSamples, open_latents
from statefilm.errors import UsageError
from statefilm.models.vae import build_vae
from statefilm.training import load_recipe
from statefilm.training.latents import open_latents_for

RECIPE = """
name: mine
steps: 1
model: {preset: hth_tiny}
text: {init_from: %s}
vae: vae
data:
  - files: {path: data, area: 256, ratios: [1, 2]}
    batch_size: 2
"""


@pytest.fixture
def recipe(model, tmp_path):
    """A recipe for ten pictures, in the folder that commands run in."""
    (tmp_path / "mine.yaml").write_text(RECIPE % model)
    (tmp_path / "data").mkdir()
    for number in range(10):
        Image.new("RGB", (20, 20), (20 * number, 0, 99)).save(tmp_path / f"data/{number}.png")
        (tmp_path / f"data/{number}.txt").write_text("a red circle")
    fields = {"block_out_channels": (32, 32, 32), "latent_channels": 4}
    build_vae("world_vae", **fields).save_pretrained(tmp_path / "vae")
    return "mine.yaml"


def shards(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.safetensors")}


def test_encode_then_read_then_verify(cli, recipe):
    outcome = cli("encode", recipe)
    assert (outcome.code, outcome.out) == (0, "latents/mine\n"), outcome.err
    assert "10 samples: 10 encoded, 0 kept" in outcome.err
    cache = open_latents("latents/mine")
    batch = LatentSamples(cache, BucketPlan(cache.assignment, 2, 0)).batch(0, 2)
    assert batch.latents.shape == (2, 4, 1, 4, 4)
    assert batch.captions == ["a red circle"] * 2
    assert batch.states.shape == (2, 8, 32) and batch.mask.sum(1).tolist() == [4, 4]
    check = cli("encode", recipe, "--verify")
    assert check.code == 0 and "10 samples in 2 shards" in check.out
    before = shards("latents")
    assert "0 encoded, 10 kept" in cli("encode", recipe).err
    assert shards("latents") == before


def test_broken_items_give_code_3_and_are_named(cli, recipe, tmp_path):
    file = tmp_path / "data" / "3.png"
    file.write_bytes(file.read_bytes()[:-28])
    outcome = cli("encode", recipe, "-o", "out")
    assert (outcome.code, outcome.out) == (3, "out\n")
    assert "3.png: " in outcome.err and "9 samples" in outcome.err
    assert "3.png" in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_verify_names_what_is_damaged(cli, recipe):
    assert cli("encode", recipe, "-q").err == ""
    shard = next(path for path in shards("latents") if path.parent.name == "latents")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    outcome = cli("encode", recipe, "--verify")
    assert outcome.code == 3
    assert f"damaged  {shard}" in outcome.out and "missing  0.png" in outcome.out
    shard.unlink()
    assert "10 encoded, 0 kept" in cli("encode", recipe).err
    assert cli("encode", recipe, "--verify").code == 0


def test_killed_at_once_it_goes_on(cli, recipe, tmp_path):
    command = [sys.executable, "-m", "statefilm", "encode", recipe, "--shard-size", "300"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(shards("latents")) < 3:
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    kept = shards("latents")
    assert len(kept) >= 3
    outcome = cli("encode", recipe, "--shard-size", "300")
    assert outcome.code == 0 and "10 samples" in outcome.err
    assert kept.items() <= shards("latents").items()
    assert cli("encode", recipe, "--verify").code == 0


def test_two_streams_have_a_folder_each(cli, recipe, tmp_path):
    text = (tmp_path / recipe).read_text()
    stream = text[text.index("  - files") :]
    (tmp_path / "two.yaml").write_text(text + stream + "  - world: {size: 32}\n")
    outcome = cli("encode", "two.yaml", "data.1.files.area=128", "data.1.files.step=8")
    assert outcome.paths == ["latents/mine/data-0", "latents/mine/data-1"]


def test_training_takes_latents_of_its_own_encoders_alone(cli, recipe, tmp_path):
    cli("encode", recipe)
    folder = tmp_path / "latents" / "mine"
    assert len(open_latents_for(load_recipe(recipe), folder).rows) == 10
    torch.manual_seed(1)
    fields = {"block_out_channels": (32, 32, 32), "latent_channels": 4}
    build_vae("world_vae", **fields).save_pretrained(tmp_path / "other")
    for change, words in (
        ("vae=other", "latents of the VAE .* the recipe has another vae"),
        ("text.max_length=7", "up to 32 tokens, text.max_length is 7"),
        ("text={preset: world_t5}", "another encoder"),
    ):
        with pytest.raises(UsageError, match=words):
            open_latents_for(load_recipe(recipe, [change]), folder)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["smoke_world_t2i"], "no data of files: set data.0.files.path=FOLDER"),
        (["smoke_world_vae"], "is of kind 'vae'"),
        (["smoke_world_text"], "is of kind 'text'"),
        (["{recipe}", "--engine", "rey"], "ray"),
        (["{recipe}", "--workers", "0"], "--workers"),
        (["{recipe}", "--views", "0"], "--views"),
        (["{recipe}", "--dtype", "float64"], "bfloat16"),
        (["{recipe}", "--shard-size", "many"], "512MB"),
        (["{recipe}", "--verify"], "no such folder of latents: latents/mine"),
        (["{recipe}", "vae=nowhere"], "nowhere"),
        (["{recipe}", "text.init_from=no/where"], "no/where"),
        (["{recipe}", "data.0.files.path=nowhere"], "nowhere: no such file or folder"),
        (["{recipe}", "data.0.files.step=2", "data.0.files.area=36"], "is not a multiple of 4"),
        (["{recipe}", "data.0.files.area=40000"], "no item fits a bucket, as '0.png'"),
    ],
)
def test_bad_input_is_refused(refused, recipe, args, words):
    assert words in refused("encode", *(arg.replace("{recipe}", recipe) for arg in args))


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512_000_000), ("2GB", 2 * 10**9), ("1.5 kB", 1500), ("64k", 64_000), ("7", 7)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "5TB", "0", "0.0001KB", "1e9", "5 M B"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)

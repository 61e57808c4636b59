"""Mutated inputs: whatever the bytes, one line of refusal or a whole sample, and soon."""

import random
import time
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from statefilm.data.files import (
    BucketPlan,
    FileSamples,
    Quarantine,
    assign,
    make_buckets,
    open_source,
)
from statefilm.errors import UsageError

from ..mutations import COUNT, mutate

PATIENCE = 5.0  # seconds
BUCKETS = make_buckets(16 * 16, 8, ratios=(1,), lengths=(1, 5))


@pytest.fixture
def originals(tmp_path, save_image, save_clip, save_tar, png, clip_bytes):
    """Names to the bytes of whole inputs of every kind."""
    folder = tmp_path / "originals"
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    for suffix in ("png", "jpg", "webp", "bmp", "gif", "tif"):
        save_image(folder / f"image.{suffix}", pixels=noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(folder / "turned.jpg", pixels=noise, exif=exif)
    save_image(folder / "deep.png", pixels=np.full((20, 20), 40_000, np.uint16))
    containers = {"mp4": "libx264", "matroska": "libx264", "webm": "libvpx", "mpegts": "libx264"}
    for container, codec in containers.items():
        suffix = {"matroska": "mkv", "mpegts": "ts"}.get(container, container)
        save_clip(folder / f"clip.{suffix}", frames=12, format=container, codec=codec)
    save_clip(folder / "clip.avi", frames=12, format="avi", codec="mpeg4")
    np.save(folder / "array.npy", np.zeros((6, 16, 16, 3), np.uint8))
    torch.save(torch.zeros(6, 16, 16, 3, dtype=torch.uint8), folder / "array.pt")
    members = [("a.png", png()), ("a.txt", b"a"), ("b.mp4", clip_bytes(frames=12))]
    save_tar(folder / "shard.tar", [*members, ("c.png", png()), ("c.json", b'{"text": "c"}')])
    (folder / "text.txt").write_text("a caption of some words")
    (folder / "text.json").write_text('{"caption": ["one", "two"], "more": 1e5}')
    rows = ['{"file_name": "whole.png", "caption": "w"}', '{"path": "whole.png", "text": "v"}']
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    (folder / "metadata.csv").write_text("path,caption\nwhole.png,w\nwhole.png,v\n")
    if find_spec("pyarrow") is not None:
        from pyarrow import parquet, table

        columns = {"path": ["whole.png", "whole.png"], "caption": ["w", "v"], "label": [1, None]}
        parquet.write_table(table(columns), folder / "metadata.parquet")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def use(folder, quarantine):
    """Index a folder and take two batches of every bucket; the names that were trained on."""
    source = open_source(folder)
    plan = BucketPlan(assign(source.entries, BUCKETS, max_upscale=100), 1, 0)
    samples = FileSamples(source, plan, quarantine)
    names = []
    for step in range(plan.steps_per_epoch):
        batch = samples.batch(step, 1)
        assert batch.frames.shape[1:] == (3, plan.bucket(step).num_frames, 16, 16)
        assert torch.isfinite(batch.frames).all() and batch.frames.abs().max() <= 1
        assert all(caption.isprintable() for caption in batch.captions)
        names += batch.names
    return names


def test_mutated_inputs_are_refused_or_whole(originals, tmp_path, png):
    draw = random.Random(0)
    names = sorted(originals)
    used = refused = 0
    for number in range(COUNT):
        name = names[number % len(names)]
        data = mutate(originals[name], originals[draw.choice(names)], draw)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(data)
        if name.startswith(("text", "metadata")):
            (folder / ("text.png" if name.startswith("text") else "whole.png")).write_bytes(png())
        quarantine = Quarantine(share=1.0, least=1000)
        began = time.process_time()  # a busy machine is no hang
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                used += len(use(folder, quarantine)) > 0
        except UsageError as error:
            message = str(error)
            assert "\n" not in message and len(message) < 1000, (number, name)
            refused += 1
        taken = time.process_time() - began
        assert taken < PATIENCE, f"mutation {number} of {name} took {taken:.1f} s"
    assert used > COUNT / 20 and refused > COUNT / 20

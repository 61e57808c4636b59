"""`statefilm video`: MP4 with a JSON beside it, frames, lengths, and clips made again."""

import json
import shlex

import av
import numpy as np
import pytest
from PIL import Image

PROMPT = "a red circle moves left"


def frames(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_writes_a_clip_with_its_provenance(cli, model, tmp_path):
    outcome = cli("video", PROMPT, "-m", model, "-s", 3, "-o", "clip.mp4", "--fps", 6)
    assert (outcome.code, outcome.paths) == (0, ["clip.mp4"])
    assert len(frames("clip.mp4")) == 5
    meta = json.loads((tmp_path / "clip.json").read_text())
    assert (meta["prompt"], meta["num_frames"], meta["fps"]) == (PROMPT, 5, 6)
    assert json.loads(cli("meta", "clip.mp4").out) == meta


@pytest.mark.parametrize("extra", [(), ("-p", "a blue square", "--grid")])
def test_as_args_makes_the_same_bytes(cli, model, tmp_path, extra):
    args = ("video", PROMPT, *extra, "-m", model, "-s", 3, "--num-frames", 9)
    assert cli(*args, "-o", "first.mp4").code == 0
    command = shlex.split(cli("meta", "first.mp4", "--as-args").out)
    assert cli(*command[1:2], "-o", "again.mp4", *command[2:]).code == 0
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()


@pytest.mark.parametrize(("seconds", "fps", "count"), [(1, 8, 9), (2, 8, 17), (0.01, 8, 5)])
def test_seconds_take_the_nearest_length(cli, model, seconds, fps, count):
    args = ("--seconds", seconds, "--fps", fps)
    outcome = cli("video", PROMPT, "-m", model, "-s", 1, "--json", *args)
    assert json.loads(outcome.out)["num_frames"] == count


def test_save_frames_keeps_every_frame_without_loss(cli, model, tmp_path):
    outcome = cli("video", PROMPT, "-m", model, "-s", 3, "-o", "clip.mp4", "--save-frames")
    assert outcome.code == 0
    files = sorted((tmp_path / "clip").glob("*.png"))
    assert len(files) == 5
    with Image.open(files[0]) as first:
        assert first.size == (32, 32)

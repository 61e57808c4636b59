"""`statefilm video`: MP4 with a JSON beside it, frames, lengths, and clips made again.

Of both kinds of models: those that read text, and video U-Nets.
"""

import json
import shlex

import av
import numpy as np
import pytest
from PIL import Image

from statefilm.cli.memory import CLIP_COPIES, available_memory

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
    assert meta["guidance_scale"] == 2  # the model's own for videos
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


def test_a_strip_shows_frames_of_each_clip_in_a_row(cli, model, tmp_path):
    args = ("video", PROMPT, "-m", model, "-s", 3, "-N", 2, "--save-frames", "--strip", 3)
    outcome = cli(*args, "--grid", "-o", "clips.mp4")
    assert (outcome.code, outcome.paths) == (0, ["clips.mp4"])
    with Image.open(tmp_path / "clips.png") as strip:
        rows = np.asarray(strip)
        assert json.loads(strip.text["statefilm"]) == meta_of(tmp_path / "clips.mp4")
    assert rows.shape == (2 * 34 + 2, 3 * 34 + 2, 3)
    sheets = pictures(tmp_path / "clips")[[0, 2, 4], 2:34]  # two clips side by side
    for row in range(2):
        for column, sheet in enumerate(sheets):
            cell = rows[2 + 34 * row :, 2 + 34 * column :][:32, :32]
            assert np.array_equal(cell, sheet[:, 2 + 34 * row :][:, :32])
    again = cli(*args, "--grid", "-o", "other.mp4", "--strip", 9)
    with Image.open(tmp_path / "other.png") as strip:
        assert (again.code, strip.size) == (0, (5 * 34 + 2, 2 * 34 + 2))
    (tmp_path / "clips.mp4").unlink()
    refused = cli(*args, "--grid", "-o", "clips.mp4")
    assert refused.code != 0 and "clips.json exists" in refused.err


def meta_of(path):
    return json.loads(path.with_suffix(".json").read_text())


def pictures(folder):
    found = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found.append(np.asarray(image))
    return np.stack(found)


def test_a_model_that_reads_nothing_makes_clips(cli, unet, tmp_path):
    outcome = cli("video", "-m", unet("none"), "-s", 5, "-N", 2, "--seconds", 0.5, "--fps", 8)
    assert outcome.paths == ["outputs/0000_sample_5.mp4", "outputs/0001_sample_6.mp4"]
    first, second = (frames(path) for path in outcome.paths)
    assert first.shape == (4, 256, 256, 3)
    assert not np.array_equal(first, second)
    meta = meta_of(tmp_path / outcome.paths[0])
    assert (meta["prompt"], meta["sampler"], meta["steps"]) == ("", "ddpm", 4)
    assert not meta.keys() & {"label", "window", "overlap", "first_frames"}


def test_labels_by_name_and_number(cli, unet, tmp_path):
    model, label = unet("class"), ("--label", "blue walls", "--label", "red walls")
    outcome = cli("video", "-m", model, *label, "-s", 5)
    assert outcome.paths == ["outputs/0000_blue-walls_5.mp4", "outputs/0001_red-walls_6.mp4"]
    assert meta_of(tmp_path / outcome.paths[1])["label"] == "red walls"
    made = {}
    for name in (1, "blue walls", "red walls", 7, 2, None):
        given = () if name is None else ("--label", name)
        (path,) = cli("video", "-m", model, *given, "-s", 5, "-o", "a.mp4", "--force").paths
        made[name] = frames(path)
    assert np.array_equal(made[1], frames(outcome.paths[0]))
    assert np.array_equal(made[1], made["blue walls"])
    assert np.array_equal(made[7], made[2])  # its name is a number
    assert not np.array_equal(made[1], made["red walls"])
    assert not np.array_equal(made[1], made[None])


@pytest.mark.parametrize(
    ("reads", "args"),
    [
        ("none", ("--num-frames", 7, "--window", 3, "--overlap", 1, "--sampler", "ddim")),
        ("none", ("--num-frames", 1)),
        ("none", ("-N", 3, "--grid", "--batch-size", 2)),
        ("class", ("--label", "red walls", "-g", 3, "--num-frames", 4, "--window", 3)),
        ("class", ("--label", "red walls", "--label", 2, "--grid")),
        ("text", ("two balls", "-n", "-green", "--num-frames", 2)),
        ("text", ("-p", "-balls", "-p", "a maze", "--grid")),
    ],
)
def test_as_args_makes_the_same_clip_of_a_unet(cli, unet, tmp_path, reads, args):
    assert cli("video", *args, "-m", unet(reads), "-s", 3, "-o", "first.mp4").code == 0
    command = shlex.split(cli("meta", "first.mp4", "--as-args").out)
    assert cli(*command[1:2], "-o", "again.mp4", *command[2:]).code == 0
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()
    assert meta_of(tmp_path / "first.mp4") == meta_of(tmp_path / "again.mp4")


def test_first_frames_are_kept_and_made_again(cli, unet, tmp_path):
    model = unet("none")
    assert cli("video", "-m", model, "-s", 1, "-o", "a.mp4", "--save-frames").code == 0
    given = pictures(tmp_path / "a")
    args = ("-m", model, "-s", 2, "--num-frames", 5, "--save-frames")
    for source, count, error in (("a", 3, 0), ("a/frame_0000.png", 1, 0), ("a.mp4", 3, 8)):
        outcome = cli("video", *args, "--first-frames", source, "-o", "b.mp4", "--force")
        assert outcome.paths == ["b.mp4"]
        made = pictures(tmp_path / "b").astype(int)
        assert len(made) == 5
        assert np.abs(made[:count] - given[:count]).max() <= error
        assert np.abs(made[count:] - given[-1]).max() > 8
        meta = meta_of(tmp_path / "b.mp4")
        assert (meta["first_frames"], len(meta["first_frames_sha256"])) == (source, 64)

        told = cli("meta", "b.mp4", "--as-args")
        assert "warning" not in told.err
        command = shlex.split(told.out)
        assert cli(*command[1:2], "-o", "c.mp4", "--force", *command[2:]).code == 0
        assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()
    (tmp_path / "a.mp4").unlink()
    assert "a.mp4 is not what the clip went on from" in cli("meta", "b.mp4", "--as-args").err


def test_a_long_clip_of_a_unet_with_all_the_flags(cli, unet, tmp_path):
    args = ("video", "-m", unet("class"), "--label", 0, "-N", 3, "-s", 4, "-o", "{seed}.mp4")
    args += ("--num-frames", 20, "--window", 6, "--steps", 2)
    dry = cli(*args, "--preview", "now.png", "--dry-run")
    assert (dry.code, dry.paths) == (0, ["4.mp4", "5.mp4", "6.mp4"])
    assert "8x8 x 20 frames in windows of 6, 2 steps of ddpm" in dry.err
    assert not any(tmp_path.iterdir())
    assert cli(*args, "--preview", "now.png", "--batch-size", 2).code == 0
    assert len(frames("6.mp4")) == 20
    (tmp_path / "5.mp4").unlink()
    (tmp_path / "5.json").unlink()
    assert cli(*args, "--skip-existing").paths == ["5.mp4"]
    with Image.open("now.png") as now:
        assert now.size == (12, 12)


def test_unknown_words_are_warned_of(cli, unet):
    outcome = cli("video", "two zeppelins", "-m", unet("text"), "-s", 1)
    assert outcome.code == 0
    assert "warning: the model does not know 'zeppelins'" in outcome.err


def test_out_of_memory_says_which_window_would_fit(cli, unet):
    # As many as fit one by one and not all at once: a fourth of what is free holds the clip.
    frames = available_memory() // (4 * CLIP_COPIES * 4 * 3 * 1024**2)
    size = ("--size", "1024x1024", "--num-frames", frames)
    outcome = cli("video", "-m", unet("none"), *size, "--dry-run")
    assert outcome.code == 4
    hint = outcome.err.splitlines()[1].split()
    assert hint[:3] == ["hint:", "try", "--window"]
    window, overlap = int(hint[3]), int(hint[5])
    assert 0 < overlap == window // 2
    assert cli("video", "-m", unet("none"), *size, *hint[2:], "--dry-run").code == 0


def test_out_of_memory_says_how_many_frames_would_fit(cli, unet):
    size = ("-m", unet("none"), "--size", "1024x1024", "--window", 2, "--overlap", 1)
    outcome = cli("video", *size, "--num-frames", 2_000_000, "--dry-run")
    assert outcome.code == 4
    hint = outcome.err.splitlines()[1].split()
    assert hint[:3] == ["hint:", "try", "--num-frames"]
    assert cli("video", *size, "--num-frames", hint[3], "--dry-run").code == 0

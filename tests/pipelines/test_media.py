"""Media files: exact, whole or absent, and never over another file."""

import av
import numpy as np
import pytest
from PIL import Image

from statefilm.errors import UsageError
from statefilm.pipelines.media import make_grid, save_frames, save_mp4, save_png
from statefilm.pipelines.provenance import read_provenance, sidecar_path

from .test_provenance import provenance

COLOURS = [(20, 20, 24), (220, 40, 40), (40, 160, 220)]


def clip(count=5, size=(32, 24)):
    """A block of colour that walks over a dark ground."""
    frames = []
    for index in range(count):
        pixels = np.full((size[1], size[0], 3), COLOURS[0], np.uint8)
        pixels[4:14, 2 + 2 * index : 12 + 2 * index] = COLOURS[1 + index % 2]
        frames.append(Image.fromarray(pixels))
    return frames


def read_video(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate)


def test_a_png_keeps_every_pixel(tmp_path):
    (image,) = clip(1)
    path = save_png(image, tmp_path / "deep" / "folder" / "a.png", provenance())
    with Image.open(path) as read:
        np.testing.assert_array_equal(np.asarray(read), np.asarray(image))


@pytest.mark.parametrize(("min_side", "scale"), [(0, 1), (40, 2), (256, 11)])
def test_a_video_shows_its_frames_enlarged_by_a_whole_factor(tmp_path, min_side, scale):
    frames = clip()
    path = save_mp4(frames, tmp_path / "a.mp4", 12.5, min_side=min_side)
    video, rate = read_video(path)
    assert video.shape == (5, 24 * scale, 32 * scale, 3)
    assert rate == 12.5
    expected = np.stack(frames).repeat(scale, 1).repeat(scale, 2).astype(int)
    assert np.abs(video - expected).mean() < (2 if scale > 1 else 4)  # colour has half the size


def test_colours_survive_the_video(tmp_path):
    frames = [Image.new("RGB", (64, 64), colour) for colour in COLOURS]
    video, _ = read_video(save_mp4(frames, tmp_path / "a.mp4", 8))
    for frame, colour in zip(video, COLOURS, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 4


def test_odd_sizes_and_single_frames_are_written_too(tmp_path):
    video, _ = read_video(save_mp4(clip(1, (31, 25)), tmp_path / "a.mp4", 8, min_side=0))
    assert video.shape == (1, 50, 62, 3)


def test_the_same_content_is_the_same_bytes(tmp_path):
    meta = provenance(num_frames=5, fps=8)
    for name in ("a", "b"):
        save_png(clip()[0], tmp_path / f"{name}.png", meta)
        save_mp4(clip(), tmp_path / f"{name}.mp4", 8, meta)
    for kind in ("png", "mp4", "json"):
        first, second = (tmp_path / f"{name}.{kind}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


def test_frames_are_numbered_files(tmp_path):
    frames, meta = clip(3), provenance(num_frames=3, fps=8)
    paths = save_frames(frames, tmp_path / "clip", meta)
    assert [path.name for path in paths] == [f"frame_000{i}.png" for i in range(3)]
    assert read_provenance(paths[2]) == meta
    paths[0].unlink()
    with pytest.raises(FileExistsError, match=r"frame_0001\.png"):
        save_frames(frames, tmp_path / "clip", meta)
    assert not paths[0].exists()


def test_a_shorter_clip_leaves_no_frame_of_the_longer_one(tmp_path):
    save_frames(clip(4), tmp_path)
    (tmp_path / "frame_1.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        save_frames(clip(2), tmp_path)
    paths = save_frames(clip(2), tmp_path, force=True)
    assert sorted(tmp_path.iterdir()) == [*paths, tmp_path / "frame_1.png"]


def test_nothing_is_overwritten_unless_asked(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"a\.png exists.*--force"):
        save_png(clip()[0], path)
    assert path.read_bytes() == b"mine"
    save_png(clip()[0], path, force=True)
    assert path.read_bytes() != b"mine"
    video = tmp_path / "b.mp4"
    sidecar_path(video).write_text("mine")
    with pytest.raises(FileExistsError, match=r"b\.json"):
        save_mp4(clip(), video, 8, provenance(num_frames=5, fps=8))
    assert sidecar_path(video).read_text() == "mine"
    assert not video.exists()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = save_mp4(clip(), tmp_path / "a.mp4", 8)
    before = path.read_bytes()
    broken = clip()
    broken[3].close()
    broken[3] = type("Broken", (), {"size": broken[0].size})()
    with pytest.raises(AttributeError):
        save_mp4(broken, path, 8, force=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_grids_are_filled_row_by_row():
    tiles = [Image.new("RGB", (4, 3), (value, 0, 0)) for value in (10, 20, 30, 40, 50)]
    grid = np.asarray(make_grid(tiles, padding=1))
    assert grid.shape == (2 * 4 + 1, 3 * 5 + 1, 3)
    for index in range(5):
        row, column = divmod(index, 3)
        tile = grid[1 + 4 * row : 4 + 4 * row, 1 + 5 * column : 5 + 5 * column]
        assert (tile == (10 * index + 10, 0, 0)).all()
    assert (grid[0] == 255).all()
    assert (grid[5:, 11:] == 255).all()
    assert make_grid(tiles, columns=9, padding=0).size == (20, 3)


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 8, "at least one frame"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], 8, "one size"),
        (clip(2), 0, "fps 0"),
        (clip(2), float("nan"), "fps nan"),
    ],
)
def test_videos_that_cannot_be_are_refused(tmp_path, frames, fps, message):
    with pytest.raises(UsageError, match=message):
        save_mp4(frames, tmp_path / "a.mp4", fps)
    assert not list(tmp_path.iterdir())


def test_grids_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="at least one image"):
        make_grid([])
    with pytest.raises(UsageError, match="one size"):
        make_grid([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))])

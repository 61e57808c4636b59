"""Loading: colours, orientation, cropping, moments of clips; a function of entry and seed."""

import io
import struct

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from statefilm.data.files import BadItem, Entry, load, open_source
from statefilm.data.files.clips import clip_length, clip_positions
from statefilm.errors import UsageError

QUADRANTS = np.zeros((16, 24, 3), np.uint8)
QUADRANTS[:8, :12] = (255, 0, 0)
QUADRANTS[:8, 12:] = (0, 255, 0)
QUADRANTS[8:, :12] = (0, 0, 255)
QUADRANTS[8:, 12:] = (255, 255, 0)


def only(folder):
    (entry,) = open_source(folder).entries
    return entry


def corner_colors(frames):
    """The colours of the corners of the first frame, row by row."""
    return [tuple(frames[:, 0, y, x].tolist()) for y in (0, -1) for x in (0, -1)]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_whatever_exif_says(tmp_path, orientation, suffix):
    undone = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[0x0112] = undone
    image = Image.fromarray(QUADRANTS)
    turned = io.BytesIO()
    image.save(turned, "PNG", exif=exif)
    stored = ImageOps.exif_transpose(Image.open(turned))
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif)
    entry = only(tmp_path)
    assert (entry.width, entry.height) == (24, 16)
    frames = load(tmp_path, entry, (16, 24))
    assert torch.equal(frames[:, 0], torch.from_numpy(QUADRANTS).permute(2, 0, 1))


def test_transparency_shows_the_background(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    entry = only(tmp_path)
    assert corner_colors(load(tmp_path, entry, (8, 8)))[:2] == [(255, 255, 255), (10, 20, 30)]
    black = load(tmp_path, entry, (8, 8), background=(1, 2, 3))
    assert corner_colors(black)[0] == (1, 2, 3)


@pytest.mark.parametrize("mode", ["P", "PA", "L", "LA", "1", "CMYK", "I;16"])
def test_modes_come_out_as_their_colours(tmp_path, mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    elif mode == "P":
        image = Image.new("RGBA", (8, 8), (128, 128, 128, 0)).quantize(4)
        image.info["transparency"] = 0
    elif mode == "PA":
        image, mode = Image.new("LA", (8, 8), (0, 0)), "LA"
    else:
        grey = {"CMYK": (0, 0, 0, 127), "LA": (128, 255), "1": 1}.get(mode, 128)
        image = Image.new(mode, (8, 8), grey)
    image.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    color = corner_colors(load(tmp_path, only(tmp_path), (8, 8)))[0]
    is_white = mode in ("1", "P") or image.getextrema() == ((0, 0), (0, 0))
    assert color == ((255,) * 3 if is_white else (128,) * 3)


def test_sixteen_bits_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    frames = load(tmp_path, only(tmp_path), (8, 8))
    assert torch.equal(frames[0, 0], torch.from_numpy((ramp // 257).astype(np.uint8)))


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(BadItem, match=r"a\.tif: pixels of mode F have no known range"):
        load(tmp_path, only(tmp_path), (8, 8))


def test_shrinking_is_antialiased(tmp_path, save_image):
    fine = np.indices((64, 64)).sum(0) % 2 * 255
    save_image(tmp_path / "a.png", pixels=fine.astype(np.uint8))
    frames = load(tmp_path, only(tmp_path), (8, 8)).float()
    assert (frames - 127.5).abs().max() < 6


def test_pictures_cover_the_size_and_are_cropped_in_the_centre_or_by_seed(tmp_path, save_image):
    ramp = np.tile(np.arange(96, dtype=np.uint8)[None, :, None], (32, 1, 3))
    save_image(tmp_path / "a.png", pixels=ramp)
    entry = only(tmp_path)
    centre = load(tmp_path, entry, (32, 32))
    assert centre.shape == (3, 1, 32, 32) and centre.dtype == torch.uint8
    assert centre[0, 0, 0, [0, -1]].tolist() == [32, 63]
    lefts = [int(load(tmp_path, entry, (32, 32), seed=seed)[0, 0, 0, 0]) for seed in range(40)]
    assert min(lefts) < 8 and max(lefts) > 56 and all(0 <= left <= 65 for left in lefts)
    assert lefts[:5] == [
        int(load(tmp_path, entry, (32, 32), seed=seed)[0, 0, 0, 0]) for seed in range(5)
    ]
    small = load(tmp_path, entry, (8, 24))
    assert small.shape == (3, 1, 8, 24)
    assert abs(int(small[0, 0, 0, 0]) - 1.5) <= 1.5, "nothing is cropped where the ratios agree"


def test_large_jpegs_shrink_while_they_are_decoded(tmp_path, save_image):
    pixels = np.repeat(np.repeat(QUADRANTS, 40, 0), 40, 1)
    save_image(tmp_path / "a.jpg", pixels=pixels, quality=95)
    frames = load(tmp_path, only(tmp_path), (16, 24))
    colors = torch.tensor(corner_colors(frames), dtype=torch.float)
    wanted = QUADRANTS[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.float32)
    assert (colors - torch.from_numpy(wanted)).abs().max() < 12


@pytest.mark.parametrize(
    ("suffix", "format", "codec"),
    [
        (".mp4", "mp4", "libx264"),
        (".mkv", "matroska", "libx264"),
        (".webm", "webm", "libvpx"),
        (".avi", "avi", "mpeg4"),
        (".ts", "mpegts", "libx264"),
        (".mpg", "mpeg", "mpeg1video"),
    ],
)
def test_containers_and_codecs(tmp_path, save_clip, frame_numbers, suffix, format, codec):
    save_clip(tmp_path / f"a{suffix}", frames=20, fps=25, format=format, codec=codec)
    entry = only(tmp_path)
    assert (entry.frames, round(entry.fps, 3)) == (20, 25)
    frames = load(tmp_path, entry, (24, 32), num_frames=17)
    assert frames.shape == (3, 17, 24, 32)
    assert frame_numbers(frames) == list(range(17))
    starts = set()
    for seed in range(12):
        numbers = frame_numbers(load(tmp_path, entry, (8, 8), num_frames=5, seed=seed))
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        starts.add(numbers[0])
    assert len(starts) > 4 and max(starts) <= 15


def test_frame_rates_are_resampled(tmp_path, save_clip, frame_numbers):
    save_clip(tmp_path / "a.mp4", frames=20, fps=24)
    entry = only(tmp_path)
    assert frame_numbers(load(tmp_path, entry, (8, 8), num_frames=5, fps=6)) == [0, 4, 8, 12, 16]
    assert frame_numbers(load(tmp_path, entry, (8, 8), num_frames=5, fps=16)) in (
        [0, 1, 3, 4, 6],
        [0, 2, 3, 5, 6],
    )
    assert clip_length(entry, 6) == 5 and clip_length(entry, 12) == 10
    with pytest.raises(BadItem, match="gives 5 frames of the 9 asked for"):
        load(tmp_path, entry, (8, 8), num_frames=9, fps=6)
    with pytest.raises(BadItem, match="24 frames a second are less than 30"):
        load(tmp_path, entry, (8, 8), num_frames=5, fps=30)
    with pytest.raises(UsageError, match="fps 0"):
        load(tmp_path, entry, (8, 8), num_frames=5, fps=0)


@given(
    frames=st.integers(1, 400),
    rate=st.floats(1, 120),
    slower=st.floats(0.955, 20),
    share=st.floats(0, 1, exclude_max=True),
    data=st.data(),
)
def test_moments_are_inside_the_clip_and_evenly_spaced(frames, rate, slower, share, data):
    entry = Entry(path="a", kind="video", width=8, height=8, frames=frames, fps=rate)
    fps = rate / slower
    length = clip_length(entry, fps)
    num_frames = data.draw(st.integers(1, length))
    positions = clip_positions(entry, num_frames, fps, share)
    assert len(positions) == num_frames and positions[0] == int(positions[0]) >= 0
    assert positions[-1] <= frames - 1 + 1e-4
    assert np.allclose(np.diff(positions), slower, rtol=1e-6)
    assert clip_positions(entry, num_frames, fps, 0.0)[0] == 0
    with pytest.raises(UsageError, match="asked for"):
        clip_positions(entry, length + 1, fps, share)


def test_clips_are_turned_as_their_container_says(tmp_path, clip_bytes):
    data = bytearray(clip_bytes(size=(32, 24)))
    matrix = data.find(b"tkhd") + 4 + 40  # ISO/IEC 14496-12, 8.3.2
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = quarter
    (tmp_path / "a.mp4").write_bytes(data)
    entry = only(tmp_path)
    assert (entry.width, entry.height) == (24, 32)
    assert load(tmp_path, entry, (32, 24), num_frames=5).shape == (3, 5, 32, 24)


def test_pixels_that_are_not_square_are_shown_as_wide_as_they_are(tmp_path, save_clip):
    save_clip(tmp_path / "a.mp4", size=(32, 24), aspect=2)
    entry = only(tmp_path)
    assert (entry.width, entry.height) == (64, 24)
    assert load(tmp_path, entry, (24, 64), num_frames=5).shape == (3, 5, 24, 64)


def test_a_video_whose_header_tells_no_length_is_counted(tmp_path, frame_numbers):
    class Stream:
        """Can be written to but not gone back in, as a recording that is still on."""

        def __init__(self):
            self.data = b""

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    recording = Stream()
    with av.open(recording, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for number in range(12):
            pixels = np.full((24, 32, 3), 12 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "a.mkv").write_bytes(recording.data)
    entry = only(tmp_path)
    assert (entry.frames, entry.fps) == (12, 10)
    assert frame_numbers(load(tmp_path, entry, (8, 8), num_frames=9)) == list(range(9))


def test_an_animated_gif_is_a_clip_and_a_still_one_an_image(tmp_path, save_image, frame_numbers):
    levels = [Image.new("L", (16, 16), 12 * number) for number in range(6)]
    levels[0].save(tmp_path / "a.gif", save_all=True, append_images=levels[1:], duration=100)
    save_image(tmp_path / "b.gif")
    moving, still = open_source(tmp_path).entries
    assert (moving.kind, moving.frames, moving.fps) == ("video", 6, 10)
    assert still.kind == "image"
    assert frame_numbers(load(tmp_path, moving, (16, 16), num_frames=5)) == [0, 1, 2, 3, 4]


def test_a_gif_may_hold_its_last_frame(tmp_path, frame_numbers):
    levels = [Image.new("L", (16, 16), 12 * number) for number in range(20)]
    durations = [50] * 19 + [2000]
    levels[0].save(tmp_path / "a.gif", save_all=True, append_images=levels[1:], duration=durations)
    entry = only(tmp_path)
    for seed in range(10):
        frames = load(tmp_path, entry, (16, 16), num_frames=5, seed=seed)
        assert frame_numbers(frames) == sorted(frame_numbers(frames))
    assert frame_numbers(load(tmp_path, entry, (16, 16), num_frames=20))[-1] == 19


def test_what_changed_since_it_was_indexed_is_refused(tmp_path, save_image, save_clip):
    save_image(tmp_path / "a.png", (24, 16))
    save_clip(tmp_path / "b.mp4", frames=20)
    image, clip = open_source(tmp_path).entries
    save_image(tmp_path / "a.png", (16, 24))
    with pytest.raises(BadItem, match=r"a\.png: "):
        load(tmp_path, image, (8, 8))
    (tmp_path / "b.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:-100])
    with pytest.raises(BadItem, match="shorter than when it was indexed"):
        load(tmp_path, clip, (8, 8), num_frames=5)
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadItem, match=r"a\.png"):
        load(tmp_path, image, (8, 8))


def test_a_picture_is_never_cut_outside_itself(save_image, tmp_path):
    # 47 x scale / scale is a little more than 47 in floating point.
    for number, size in enumerate([(31, 47), (47, 31), (49, 98), (97, 61)]):
        save_image(tmp_path / "data" / f"{number}.png", size)
    source = open_source(tmp_path / "data")
    for entry in source.entries:
        for height in range(16, 64, 8):
            for seed in range(4):
                frames = load(source.root, entry, (height, 24), seed=seed)
                assert frames.shape == (3, 1, height, 24)

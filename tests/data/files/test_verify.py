"""What is broken behind a whole header, of every kind of item, found by decoding to the end."""

import math
import struct
import time
import warnings

import numpy as np
import pytest
import torch

from statefilm.data.files import Limits, open_source, verify


def cut(path, share=0.6):
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def test_whole_items_of_every_kind_are_whole(
    tmp_path, save_image, save_clip, save_tar, png, clip_bytes, noise
):
    for suffix in ("png", "jpg", "webp", "gif", "tif"):
        save_image(tmp_path / "a" / f"image.{suffix}", pixels=noise)
    save_clip(tmp_path / "a" / "b.mp4", frames=20)
    save_clip(tmp_path / "a" / "c.avi", frames=20, format="avi", codec="mpeg4")
    save_clip(tmp_path / "a" / "d.ts", frames=20, format="mpegts")
    np.save(tmp_path / "a" / "e.npy", np.zeros((3, 70, 8, 8, 3), np.uint8))
    torch.save(torch.zeros(70, 8, 8, 3, dtype=torch.uint8), tmp_path / "a" / "f.pt")
    for number in range(3):
        save_image(tmp_path / "b" / "000" / f"{number}.png", pixels=noise)
    (tmp_path / "b" / "metadata.jsonl").write_text('{"file_name": "000"}\n')
    save_tar(tmp_path / "c" / "0.tar", [("a.png", png()), ("b.mp4", clip_bytes())])
    for folder, count in (("a", 12), ("b", 1), ("c", 2)):
        source, told = open_source(tmp_path / folder), []
        assert verify(source, advance=told.append) == {}
        assert told == [None] * count


def test_pictures_cut_short_are_named_with_the_reason(tmp_path, save_image, noise):
    for suffix in ("png", "jpg", "webp"):
        cut(save_image(tmp_path / f"cut.{suffix}", pixels=noise))
        save_image(tmp_path / f"whole.{suffix}", pixels=noise)
    source = open_source(tmp_path)
    bad = verify(source)
    assert set(bad) | set(source.refused) == {"cut.png", "cut.jpg", "cut.webp"}
    assert "truncated" in bad["cut.png"] and "truncated" in bad["cut.jpg"]


def test_clips_are_decoded_to_their_last_frame(tmp_path, save_clip, clip_bytes):
    whole = save_clip(tmp_path / "a.mp4", frames=40, size=(64, 48))
    data = bytearray(whole.read_bytes())
    start = data.index(b"mdat") + 4
    size = struct.unpack(">I", data[start - 8 : start - 4])[0] - 8
    last = start + int(0.98 * size)  # in the last frames
    data[last : start + size] = b"\xff" * (start + size - last)
    (tmp_path / "b.mp4").write_bytes(data)
    cut(save_clip(tmp_path / "c.mkv", frames=40, size=(64, 48), format="matroska"), 0.9)
    longer = clip_bytes(frames=20, format="avi", codec="mpeg4")
    (tmp_path / "d.avi").write_bytes(longer.replace(struct.pack("<I", 20), struct.pack("<I", 4000)))
    bad = verify(open_source(tmp_path))
    assert set(bad) == {"b.mp4", "c.mkv", "d.avi"}
    assert "promises frames up to" in bad["d.avi"]


def test_one_frame_of_a_folder_of_frames_is_enough(tmp_path, save_image, noise):
    for number in range(5):
        save_image(tmp_path / "000" / f"{number}.png", pixels=noise)
    cut(tmp_path / "000" / "4.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "000"}\n')
    assert set(verify(open_source(tmp_path))) == {"000"}


def test_what_shrank_since_it_was_indexed_is_broken(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((70, 8, 8, 3), np.uint8))
    source = open_source(tmp_path)
    cut(tmp_path / "a.npy")
    assert "shorter than when it was indexed" in verify(source)["a.npy"]


def test_what_one_request_may_decode_does_not_bound_it(tmp_path, save_clip):
    save_clip(tmp_path / "a.mp4", frames=20)
    for frames in (20, 30):
        limits = Limits(decoded_frames=8, frames=frames)
        assert verify(open_source(tmp_path, limits=limits)) == {}


def test_some_entries_alone_in_order(tmp_path, save_image):
    for number in range(40):
        save_image(tmp_path / f"{number:02d}.png")
    source = open_source(tmp_path)
    for number in range(0, 40, 3):
        cut(tmp_path / f"{number:02d}.png")
    told = []
    bad = verify(source, source.entries[10:], told.append)
    assert list(bad) == [f"{number}.png" for number in range(12, 40, 3)]
    assert [number for number, one in enumerate(told, 10) if one] == list(range(12, 40, 3))


def test_an_interrupt_does_not_wait_for_what_is_left(tmp_path, save_image):
    save_image(tmp_path / "a.png")
    shape = (8_000, 128, 128, 3)
    for number in range(12):
        with (tmp_path / f"b{number:02d}.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + math.prod(shape))  # a hole, which takes no place
    source = open_source(tmp_path)
    before = list(warnings.filters)
    for _ in range(2):  # the second time it is in memory
        began = time.perf_counter()
        verify(source, source.entries[1:2])
    one_clip = time.perf_counter() - began

    def interrupt(bad):
        raise KeyboardInterrupt

    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        verify(source, advance=interrupt)
    assert time.perf_counter() - began < one_clip / 2
    assert warnings.filters == before

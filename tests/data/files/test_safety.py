"""What is refused before it can do harm, each with one line."""

import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from statefilm.data.files import BadItem, Item, Limits, load, open_source
from statefilm.data.files.listing import check_name, open_item
from statefilm.data.files.probe import probe
from statefilm.errors import UsageError


def refusal(folder, **options):
    """The one reason why nothing of a folder can be used."""
    with pytest.raises(UsageError) as caught:
        open_source(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


def test_a_bomb_is_refused_by_its_header(tmp_path):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert "pixels" in refusal(tmp_path)
    limits = Limits(pixels=10**10)
    assert "bomb" in refusal(tmp_path, limits=limits), "Pillow's own limit stands behind ours"


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(pixels=700), "32 x 24 is more than 700 pixels"),
        (Limits(frames=19), "20 frames are more than 19"),
        (Limits(seconds=1.9), "2 seconds are more than 1.9"),
        (Limits(video_bytes=100), "bytes are more than 100"),
    ],
)
def test_clips_have_limits(tmp_path, save_clip, limits, why):
    save_clip(tmp_path / "a.mp4")
    assert why in refusal(tmp_path, limits=limits)


def test_a_request_decodes_only_so_many_frames(tmp_path, save_clip):
    save_clip(tmp_path / "a.mp4", frames=20, gop=100)
    (entry,) = open_source(tmp_path).entries
    few = Limits(decoded_frames=8)
    assert load(tmp_path, entry, (8, 8), num_frames=5, limits=few).shape == (3, 5, 8, 8)
    with pytest.raises(BadItem, match="decode more than 8 frames"):
        load(tmp_path, entry, (8, 8), num_frames=17, limits=few)


def test_a_video_shorter_than_its_header_says_is_refused(tmp_path, clip_bytes):
    data = clip_bytes(frames=20, format="avi", codec="mpeg4")
    longer = data.replace(struct.pack("<I", 20), struct.pack("<I", 4000))
    (tmp_path / "a.avi").write_bytes(longer)
    (entry,) = open_source(tmp_path).entries
    with pytest.raises(BadItem, match=r"promises frames up to .* that are not there"):
        load(tmp_path, entry, (8, 8), num_frames=entry.frames)


def test_headers_that_ask_for_all_memory_are_refused(tmp_path, clip_bytes):
    data = bytearray(clip_bytes(frames=12))
    times = data.find(b"stts")  # ISO/IEC 14496-12, 8.6.1.2: a table, with how long it is
    data[times + 8] = 0x80
    (tmp_path / "a.mp4").write_bytes(data)
    assert "more memory than there is" in refusal(tmp_path)


def test_a_truncated_image_is_refused_when_it_is_decoded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name in ("a.png", "b.jpg", "c.webp"):
        file = io.BytesIO()
        Image.fromarray(noise).save(file, Image.registered_extensions()[name[1:]])
        (tmp_path / name).write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    source = open_source(tmp_path)
    for entry in source.entries:
        with pytest.raises(BadItem):
            load(tmp_path, entry, (8, 8))
    assert len(source.entries) + len(source.refused) == 3


@pytest.mark.parametrize(
    "text", [b"ffconcat version 1.0\nfile good.mp4\n", b"#EXTM3U\n#EXTINF:1,\ngood.mp4\n"]
)
def test_playlists_do_not_open_what_they_name(tmp_path, save_clip, text, monkeypatch):
    save_clip(tmp_path / "good.mp4")
    (tmp_path / "list.mp4").write_bytes(text)
    monkeypatch.chdir(tmp_path)
    source = open_source(tmp_path)
    assert [entry.path for entry in source.entries] == ["good.mp4"]
    assert set(source.refused) == {"list.mp4"}


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "cannot identify" in refusal(tmp_path)


def test_arrays_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    assert "an array of object is not one of bytes" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), "float32 is not one of bytes"),
        (np.zeros((4, 8), np.uint8), "is not that of a clip"),
        (np.zeros((0, 8, 8, 3), np.uint8), "is not that of a clip"),
        (np.zeros((2, 4, 8, 8, 2), np.uint8), "2 channels are not 1, 3 or 4"),
        (np.asfortranarray(np.zeros((4, 8, 8, 3), np.uint8)), "Fortran"),
    ],
)
def test_arrays_of_no_clip_are_refused(tmp_path, array, why):
    np.save(tmp_path / "a.npy", array)
    assert why in refusal(tmp_path)


def test_arrays_cut_short_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-1])
    assert "cut short" in refusal(tmp_path)
    (tmp_path / "a.npy").write_bytes(data.replace(b"(4, 8", b"(9**"))
    assert "a.npy" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../secret.png", "leads out"),
        ("a/../../secret.png", "leads out"),
        ("a\\..\\..\\secret.png", "leads out"),
        ("/etc/passwd", "absolute"),
        ("C:\\secret.png", "absolute"),
        ("https://example.org/a.png", "an address"),
        ("a\x00.png", "control characters"),
        ("a\x1b[2J.png", "control characters"),
        ("a\udcff.png", "control characters"),
        ("", "empty"),
    ],
)
def test_hostile_names_are_refused(name, why):
    with pytest.raises(UsageError, match=why):
        check_name(name)


@pytest.mark.parametrize("name", ["a.png", "a b/ü.png", "..a/b..c.png", "Bild 3.04\u202fPM.png"])
def test_odd_but_honest_names_are_not(name):
    check_name(name)


def test_tables_cannot_name_files_outside(tmp_path, save_image):
    save_image(tmp_path / "secret.png")
    save_image(tmp_path / "data" / "a.png")
    names = ["a.png", "../secret.png", str(tmp_path / "secret.png"), "file:///etc/passwd"]
    rows = "".join(f'{{"path": "{name}"}}\n' for name in names)
    (tmp_path / "data" / "metadata.jsonl").write_text(rows)
    source = open_source(tmp_path / "data")
    assert [entry.path for entry in source.entries] == ["a.png"] and len(source.refused) == 3


def test_links_are_followed_only_inside(tmp_path, save_image):
    save_image(tmp_path / "secret.png")
    data = tmp_path / "data"
    save_image(data / "deep" / "a.png")
    (data / "out.png").symlink_to("../secret.png")
    (data / "in.png").symlink_to("deep/a.png")
    (data / "folder").symlink_to("deep")
    (data / "lost.png").symlink_to("nowhere.png")
    source = open_source(data, layout="folder")
    assert [entry.path for entry in source.entries] == ["deep/a.png", "in.png"]
    assert set(source.refused) == {"out.png", "folder", "lost.png"}
    (data / "deep" / "a.png").unlink()
    (data / "deep" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(BadItem, match="outside the folder"):
        load(data, source.entries[0], (8, 8))


def test_pipes_and_devices_are_not_opened(tmp_path, save_image):
    save_image(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert open_source(tmp_path).refused == {"b.png": "is not a regular file"}


def test_members_of_tars_are_checked(tmp_path, png):
    good = png()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("good.png", "../up.png", "/abs.png"):
            info = tarfile.TarInfo(name)
            info.size = len(good)
            tar.addfile(info, io.BytesIO(good))
        for name, kind in (("sym.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        fifo = tarfile.TarInfo("fifo.png")
        fifo.type = tarfile.FIFOTYPE
        tar.addfile(fifo)
    source = open_source(tmp_path)
    assert [entry.member for entry in source.entries] == ["good.png"]
    names = ("../up.png", "/abs.png", "sym.png", "hard.png", "fifo.png")
    assert set(source.refused) == {f"a.tar::{name}" for name in names}


def test_a_broken_tar_keeps_what_stands_before_the_break(tmp_path, save_tar, png):
    file = save_tar(tmp_path / "a.tar", [(f"{n}.png", png(n)) for n in range(4)])
    data = file.read_bytes()
    second = data.index(b"2.png")
    file.write_bytes(data[:second] + b"\xff" * 100 + data[second + 100 :])
    source = open_source(tmp_path)
    assert [entry.member for entry in source.entries] == ["0.png", "1.png"]
    assert "broken at byte" in source.refused["a.tar"]
    file.write_bytes(data[: second + 530])
    assert [entry.member for entry in open_source(tmp_path).entries] == ["0.png", "1.png"]
    file.write_bytes(b"\x1f\x8b" + data)
    assert "not a whole plain tar" in refusal(tmp_path)


def test_a_tar_that_leads_back_ends(tmp_path, save_tar, png):
    file = save_tar(tmp_path / "a.tar", [("a.png", png()), ("b.png", png())])
    data = bytearray(file.read_bytes())
    start = data.index(b"b.png")
    header = data[start : start + 512]
    header[124:136] = (-(2**20)).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[start : start + 512] = header
    file.write_bytes(data)
    source = open_source(tmp_path)
    assert [entry.member for entry in source.entries] == ["a.png"]
    assert "leads back" in source.refused["a.tar"] or "not a whole" in source.refused["a.tar"]


def test_captions_have_limits(tmp_path, save_image):
    for name, text in {
        "a": b"x" * 70_000,
        "b": b"\xff\xfe\x00",
        "c": b"bell \x07",
        "d": b"x" * 10_001,
    }.items():
        save_image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(text)
    save_image(tmp_path / "e.png")
    (tmp_path / "e.json").write_text('{"caption": {"nested": 1}}')
    save_image(tmp_path / "f.png")
    source = open_source(tmp_path)
    assert [entry.path for entry in source.entries] == ["f.png"]
    assert set(source.refused) == {f"{name}.png" for name in "abcde"}


def test_a_decoder_led_in_circles_runs_out(tmp_path):
    (tmp_path / "a.mp4").write_bytes(bytes(1 << 20))
    item = Item(path="a.mp4", kind="video", size=1 << 20)
    with open_item(tmp_path, item) as file:
        readings = (file.seek(0) or file.read() for _ in range(100))
        with pytest.raises(OSError, match="in circles"):
            list(readings)
    with pytest.raises(BadItem):
        probe(tmp_path, item, Limits())

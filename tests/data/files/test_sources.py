"""Sources: every layout gives the entries that are there, with captions, labels and sizes."""

import json

import numpy as np
import pytest
import torch

from statefilm.data.files import load, open_source
from statefilm.errors import UsageError


def facts(source):
    return {entry.name: entry.captions for entry in source.entries}


def test_a_folder_has_captions_beside_its_images_and_clips(tmp_path, save_image, save_clip):
    save_image(tmp_path / "b.png", (24, 16))
    (tmp_path / "b.txt").write_text("  a red\n card ")
    save_image(tmp_path / "deep" / "a.jpg", (10, 30))
    (tmp_path / "deep" / "a.json").write_text('{"caption": ["one", "two", ""]}')
    save_clip(tmp_path / "c.mp4", frames=20, fps=10, size=(32, 24))
    save_image(tmp_path / ".hidden.png")
    (tmp_path / "README.md").write_text("not a sample")
    source = open_source(tmp_path)
    assert source.layout == "folder" and source.refused == {}
    assert facts(source) == {"b.png": ("a red card",), "c.mp4": (), "deep/a.jpg": ("one", "two")}
    card, clip, deep = source.entries
    assert (card.kind, card.width, card.height, card.frames, card.fps) == ("image", 24, 16, 1, None)
    assert (clip.kind, clip.width, clip.height, clip.frames, clip.fps) == ("video", 32, 24, 20, 10)
    assert (deep.width, deep.height) == (10, 30)
    assert {deep.caption(seed) for seed in range(20)} == {"one", "two"}
    assert clip.caption(0) == ""


@pytest.mark.parametrize("table", ["jsonl", "csv"])
@pytest.mark.parametrize(("path", "text"), [("file_name", "text"), ("path", "prompt")])
def test_tables_name_files_and_captions(tmp_path, save_image, table, path, text):
    save_image(tmp_path / "x" / "a.png")
    save_image(tmp_path / "b.png")
    rows = [("x/a.png", 'a "red", card'), ("b.png", "b"), ("x/a.png", "again"), ("no.png", "n")]
    if table == "jsonl":
        lines = [json.dumps({path: name, text: caption}) for name, caption in rows]
    else:
        quoted = [(name, '"' + caption.replace('"', '""') + '"') for name, caption in rows]
        lines = [f"{path},{text}", *(f"{name},{caption}" for name, caption in quoted)]
    file = tmp_path / f"metadata.{table}"
    file.write_text("\n".join(lines) + "\n")
    for source in (open_source(tmp_path), open_source(file)):
        assert source.layout == "table"
        assert facts(source) == {"b.png": ("b",), "x/a.png": ('a "red", card', "again")}
        assert source.refused == {f"metadata.{table}:4": "no.png: no such file in the folder"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "CSV", "parquet"])
def test_a_table_may_have_any_name_where_its_path_is_given(tmp_path, save_image, suffix):
    for name in ("x/a.png", "b.png", "c.png"):
        save_image(tmp_path / "d" / name)
    (tmp_path / "d" / "metadata.csv").write_text("path,caption\nb.png,not this\n")
    file, rows = tmp_path / "d" / f"my captions.{suffix}", {"x/a.png": "one", "b.png": "two"}
    if suffix == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {"path": list(rows), "caption": list(rows.values())}
        parquet.write_table(pyarrow.table(columns), file)
    elif suffix == "jsonl":
        lines = [json.dumps({"path": name, "caption": text}) for name, text in rows.items()]
        file.write_text("\n".join(lines))
    else:
        file.write_text("path,caption\n" + "".join(f"{n},{text}\n" for n, text in rows.items()))
    source = open_source(file, cache=tmp_path / "cache")
    assert (source.layout, source.tables) == ("table", (file.name,))
    assert facts(source) == {"b.png": ("two",), "x/a.png": ("one",)} and source.refused == {}
    assert open_source(file, cache=tmp_path / "cache") == source
    whole = open_source(tmp_path / "d", cache=tmp_path / "cache")
    assert (whole.tables, facts(whole)) == (("metadata.csv",), {"b.png": ("not this",)})


def test_paths_in_a_table_count_from_its_folder_and_stay_there(tmp_path, save_image):
    save_image(tmp_path / "up.png")
    save_image(tmp_path / "d" / "a.png")
    file = tmp_path / "d" / "list.csv"
    file.write_text("file,text\na.png,a\n../up.png,up\nd/a.png,twice\n")
    source = open_source(file)
    assert facts(source) == {"a.png": ("a",)}
    assert set(source.refused) == {"list.csv:2", "list.csv:3"}


def test_a_table_that_names_no_files_says_what_it_lacks(tmp_path, save_image):
    save_image(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("image,words\na.png,a\n")
    with pytest.raises(UsageError, match=r"list\.csv:1: the row has no file_name or path or file"):
        open_source(tmp_path / "list.csv")
    with pytest.raises(UsageError, match=r"holds no metadata.* give the path of list\.csv"):
        open_source(tmp_path, layout="table")


def test_broken_rows_are_refused_by_number_and_the_others_stay(tmp_path, save_image):
    save_image(tmp_path / "a.png")
    lines = [
        '{"file_name": "a.png", "caption": "fine", "label": 3}',
        "{not json",
        "[1, 2]",
        '{"caption": "no path"}',
        '{"file_name": "a.png", "caption": 7}',
        "[" * 100_000,
        '{"file_name": "metadata.jsonl", "caption": "not a sample"}',
        '{"file_name": "a.png", "label": -1}',
        "",
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path)
    assert [(entry.captions, entry.label) for entry in source.entries] == [(("fine",), 3)]
    assert sorted(source.refused) == [f"metadata.jsonl:{number}" for number in range(2, 9)]
    assert all("\n" not in why for why in source.refused.values())


def test_a_clip_may_be_a_folder_of_frames(tmp_path, save_image, frame_numbers):
    for number in range(6):
        pixels = np.full((8, 8, 3), 12 * number, np.uint8)
        save_image(tmp_path / "000" / f"frame_{number:04d}.png", pixels=pixels)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "000", "caption": "grows"}\n')
    (entry,) = open_source(tmp_path).entries
    assert (entry.kind, entry.frames, entry.captions) == ("frames", 6, ("grows",))
    assert frame_numbers(load(tmp_path, entry, (8, 8), num_frames=5)) == [0, 1, 2, 3, 4]


def test_frames_are_ordered_by_their_numbers(tmp_path, save_image, frame_numbers):
    for number in range(12):
        pixels = np.full((8, 8, 3), 12 * number, np.uint8)
        save_image(tmp_path / "000" / f"frame{number}.png", pixels=pixels)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "000", "caption": "grows"}\n')
    (entry,) = open_source(tmp_path).entries
    assert frame_numbers(load(tmp_path, entry, (8, 8), num_frames=12)) == list(range(12))


def test_captions_may_be_in_capital_letters(tmp_path, save_image):
    save_image(tmp_path / "A.JPG")
    (tmp_path / "A.TXT").write_text("a red card")
    assert facts(open_source(tmp_path)) == {"A.JPG": ("a red card",)}


def test_parquet_is_read_or_its_need_is_named(tmp_path, save_image):
    save_image(tmp_path / "a.png")
    file = tmp_path / "metadata.parquet"
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        file.write_bytes(b"PAR1")
        with pytest.raises(UsageError, match="needs pyarrow: pip install"):
            open_source(tmp_path)
        return
    parquet.write_table(pyarrow.table({"path": ["a.png"], "caption": ["a"]}), file)
    assert facts(open_source(tmp_path)) == {"a.png": ("a",)}
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UsageError, match=r"metadata\.parquet"):
        open_source(tmp_path)


def test_class_folders_give_labels_and_captions(tmp_path, save_image):
    for name in ("train/tabby_cat/1.png", "train/dog/2.png", "test/dog/3.png"):
        save_image(tmp_path / name)
    source = open_source(tmp_path, template="a photo of a {}")
    assert source.layout == "imagefolder"
    assert [(e.path, e.label, e.captions) for e in source.entries] == [
        ("train/dog/2.png", 0, ("a photo of a dog",)),
        ("train/tabby_cat/1.png", 1, ("a photo of a tabby cat",)),
    ]
    test = open_source(tmp_path, split="test")
    assert [(e.path, e.label) for e in test.entries] == [("test/dog/3.png", 0)]
    with pytest.raises(UsageError, match="split 'val' is not there: choose from train, test"):
        open_source(tmp_path, split="val")


def test_a_class_may_be_called_train(tmp_path, save_image):
    for name in ("bus/1.png", "car/2.png", "train/3.png"):
        save_image(tmp_path / name)
    source = open_source(tmp_path)
    assert source.layout == "imagefolder"
    assert [(e.path, e.label) for e in source.entries] == [
        ("bus/1.png", 0),
        ("car/2.png", 1),
        ("train/3.png", 2),
    ]
    with pytest.raises(UsageError, match="the data are not split"):
        open_source(tmp_path, split="test")


def test_ucf101_follows_its_lists(tmp_path, save_clip):
    clips = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "Archery/v_Archery_g08_c01.avi"]
    for clip in clips:
        save_clip(tmp_path / "UCF-101" / clip, frames=4, format="avi", codec="mpeg4")
    (whole,) = {open_source(tmp_path).layout}
    assert whole == "ucf101" and len(open_source(tmp_path).entries) == 2
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text(f"{clips[0]} 1\n")
    (lists / "testlist01.txt").write_text(f"{clips[1]}\n")
    (train,) = open_source(tmp_path).entries
    (test,) = open_source(tmp_path, split="test").entries
    assert (train.captions, train.label, train.frames) == (("apply eye makeup",), 0, 4)
    assert (test.captions, test.label) == (("archery",), 1)


def test_carla_is_read_without_unpickling(tmp_path):
    clip = torch.arange(5 * 8 * 8 * 3).reshape(5, 8, 8, 3).remainder(251).byte()
    for number in range(3):
        torch.save(clip + number, tmp_path / f"video_{number}.pt")
    for split, names in {"train": (0, 1), "test": (2,)}.items():
        rows = [f"{n},/home/someone/video_{n}.pt" for n in names]
        (tmp_path / f"video_{split}.csv").write_text("\n".join([",path", *rows]) + "\n")
    source = open_source(tmp_path)
    assert source.layout == "carla" and len(source.entries) == 2
    (test,) = open_source(tmp_path, split="test").entries
    frames = load(tmp_path, test, (8, 8), num_frames=5)
    assert torch.equal(frames, (clip + 2).permute(3, 0, 1, 2))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 3, 8, 8, dtype=torch.uint8).permute(0, 2, 3, 1),
        torch.zeros(4, 8, 8, 3),
        {"video": torch.zeros(4, 8, 8, 3, dtype=torch.uint8), "more": torch.zeros(2)},
    ],
)
def test_other_pt_files_are_refused(tmp_path, tensor):
    torch.save(tensor, tmp_path / "video_0.pt")
    with pytest.raises(UsageError, match=r"none of 1 items can be used: video_0\.pt: "):
        open_source(tmp_path)


def test_minerl_and_gqn_are_split_folders_of_clips(tmp_path, save_clip):
    save_clip(tmp_path / "train" / "0.mp4", frames=6)
    save_clip(tmp_path / "test" / "0.mp4", frames=4)
    (tmp_path / "train" / "metadata.json").write_text('{"0.mp4": {"jump": [0, 1]}}')
    np.save(tmp_path / "train" / "1.npy", np.zeros((5, 8, 8, 3), np.uint8))
    source = open_source(tmp_path)
    assert source.layout == "folder"
    assert {e.path: (e.frames, e.fps) for e in source.entries} == {
        "train/0.mp4": (6, 10),
        "train/1.npy": (5, None),
    }
    assert [e.frames for e in open_source(tmp_path, split="test").entries] == [4]


def test_moving_mnist_is_one_array_of_many_clips(tmp_path):
    array = np.arange(6 * 3 * 8 * 8).reshape(6, 3, 8, 8).astype(np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", array)
    source = open_source(tmp_path / "mnist_test_seq.npy")
    assert [entry.name for entry in source.entries] == [
        f"mnist_test_seq.npy::{part}" for part in range(3)
    ]
    frames = load(tmp_path, source.entries[1], (8, 8), num_frames=5)
    assert torch.equal(frames[0], torch.from_numpy(array[:5, 1]))


def test_shards_group_members_by_name(tmp_path, save_tar, png, clip_bytes, frame_numbers):
    save_tar(
        tmp_path / "0.tar",
        [
            ("a/001.png", png(10)),
            ("a/001.txt", b"first"),
            ("a/001.cls", b"7"),
            ("a/002.json", b'{"caption": "second"}'),
            ("a/002.mp4", clip_bytes(frames=9)),
            ("a/003.txt", b"alone"),
        ],
    )
    save_tar(tmp_path / "1.tar", [("b.png", png(30)), ("b.jpg", png(30)), ("c.png", png(40))])
    source = open_source(tmp_path)
    assert source.layout == "webdataset"
    assert [(e.name, e.captions, e.label) for e in source.entries] == [
        ("0.tar::a/001.png", ("first",), 7),
        ("0.tar::a/002.mp4", ("second",), None),
        ("1.tar::c.png", (), None),
    ]
    assert set(source.refused) == {"1.tar::b.png", "1.tar::b.jpg"}
    assert load(tmp_path, source.entries[0], (16, 16)).unique().tolist() == [10]
    assert frame_numbers(load(tmp_path, source.entries[1], (8, 8), num_frames=9)) == [*range(9)]


def test_the_index_is_sorted_stable_and_kept(tmp_path, save_image):
    data, cache = tmp_path / "data", tmp_path / "cache"
    for name in ("c.png", "a.png", "b.png"):
        save_image(data / name)
    (data / "broken.png").write_bytes(b"nothing")
    first = open_source(data, cache=cache)
    assert [entry.path for entry in first.entries] == ["a.png", "b.png", "c.png"]
    assert set(first.refused) == {"broken.png"}
    (file,) = cache.iterdir()
    written = file.read_bytes()
    file.write_bytes(written.replace(b'"width": 24', b'"width": 48'))
    assert open_source(data, cache=cache) == first, "a changed file is not believed"
    assert file.read_bytes() == written
    save_image(data / "d.png")
    assert len(open_source(data, cache=cache).entries) == 4
    assert len(list(cache.iterdir())) == 2
    with pytest.raises(UsageError, match="lies in the data"):
        open_source(data, cache=data / "cache")
    assert sorted(p.name for p in data.iterdir()) == [
        "a.png",
        "b.png",
        "broken.png",
        "c.png",
        "d.png",
    ]


def test_a_kept_index_is_read_instead_of_the_headers(tmp_path, save_image, monkeypatch):
    save_image(tmp_path / "data" / "a.png")
    first = open_source(tmp_path / "data", cache=tmp_path / "cache")
    monkeypatch.setattr("statefilm.data.files.source.probe", None)
    assert open_source(tmp_path / "data", cache=tmp_path / "cache") == first


def test_bad_requests_are_one_line_errors(tmp_path, save_image):
    with pytest.raises(UsageError, match="no such file or folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no images or clips"):
        open_source(tmp_path)
    save_image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="unknown layout 'tables': did you mean 'table'"):
        open_source(tmp_path, layout="tables")
    with pytest.raises(UsageError, match="unknown split 'tests': did you mean 'test'"):
        open_source(tmp_path, split="tests")
    with pytest.raises(UsageError, match="the data are not split"):
        open_source(tmp_path, split="test")
    with pytest.raises(UsageError, match="template"):
        open_source(tmp_path, template="{0.__class__}")
    assert [e.path for e in open_source(tmp_path / "a.png").entries] == ["a.png"]

"""`statefilm data`: samples that are what the world says, and folders inspected."""

import json

import numpy as np
import pytest
from PIL import Image

from statefilm.data.world import Scene, render, sample_batch


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_images_hold_the_scenes_they_name(cli, tmp_path):
    outcome = cli("data", "make", "out", "--count", 5, "--size", 32, "--seed", 3)
    assert (outcome.code, outcome.out) == (0, "out/metadata.jsonl\n")
    truth = sample_batch(3, 0, 5, size=32)
    found = rows(tmp_path / "out")
    assert [row["caption"] for row in found] == truth.captions
    for row, scene in zip(found, truth.scenes, strict=True):
        assert Scene.from_dict(row["scene"]) == scene
        with Image.open(tmp_path / "out" / row["file_name"]) as image:
            pixels = np.asarray(image).astype(float) / 127.5 - 1
        drawn = render([scene], size=32)[0, :, 0].permute(1, 2, 0).numpy()
        assert np.abs(pixels - drawn).max() <= 0.5 / 127.5 + 1e-6


@pytest.mark.parametrize("extra", [(), ("--frames",)])
def test_clips_are_made_and_inspected(cli, tmp_path, extra):
    args = ("--count", 3, "--size", 32, "--num-frames", 5)
    assert cli("data", "make", "out", *args, *extra).code == 0
    outcome = cli("data", "inspect", "out", "lengths=[5]", "area=1024", "--json")
    facts = json.loads(outcome.out)
    assert outcome.code == 0
    assert facts["kinds"] == {"frames" if extra else "video": 3}
    assert facts["buckets"] == {"32x32x5": 3}
    assert (facts["captioned"], facts["broken"], facts["dropped"]) == (3, {}, {})


def test_inspect_finds_what_is_broken_absent_dropped_or_without_a_caption(cli, tmp_path):
    cli("data", "make", "out", "--count", 6, "--size", 64)
    folder = tmp_path / "out"
    (folder / "000000.png").write_bytes(b"\x89PNG")
    (folder / "000001.png").unlink()
    Image.new("RGB", (40, 80)).save(folder / "beside.png")
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    rows = [json.dumps({"file_name": "beside.png"}), json.dumps({"file_name": "gone.png"})]
    (folder / "metadata.jsonl").write_text("\n".join([*lines, *rows]))
    outcome = cli("data", "inspect", "out", "--json")
    facts = json.loads(outcome.out)
    assert outcome.code == 3
    absent = [name for name in facts["broken"] if name.startswith("metadata.jsonl:")]
    assert "000000.png" in facts["broken"] and len(absent) == 2
    assert facts["uncaptioned"] == ["beside.png"]
    assert facts["buckets"] == {"48x88": 1, "64x64": 4}
    assert cli("data", "inspect", "out", "area=65536", "--json").code == 3
    facts = json.loads(cli("data", "inspect", "out", "area=20000", "--json").out)
    assert "enlarged" in facts["dropped"]["beside.png"]
    shown = cli("data", "inspect", "out").out
    assert "3 broken, 1 without a caption" in shown and "64x64" in shown


def test_captions_beside_the_files_and_repeated_ones(cli, tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a grey square\n")
    facts = json.loads(cli("data", "inspect", ".", "--json", "--duplicates").out)
    assert (facts["captioned"], facts["uncaptioned"]) == (1, ["b.png"])
    assert facts["duplicates"] == [["a.png", "b.png"]]


def test_a_table_of_any_name_is_inspected_by_its_path(cli, tmp_path):
    cli("data", "make", "out", "--count", 2, "--size", 64)
    (tmp_path / "out" / "metadata.jsonl").rename(tmp_path / "out" / "captions.jsonl")
    facts = json.loads(cli("data", "inspect", "out", "--json").out)
    assert (facts["captioned"], facts["unused_tables"]) == (0, ["captions.jsonl"])
    assert "or name it metadata.jsonl" in cli("data", "inspect", "out").out
    facts = json.loads(cli("data", "inspect", "out/captions.jsonl", "--json").out)
    assert (facts["captioned"], facts["tables"]) == (2, ["captions.jsonl"])
    assert cli("data", "verify", "out/captions.jsonl").out == "out: 2 items, 0 broken\n"


def test_a_recipe_is_inspected_with_its_own_buckets(cli, tmp_path):
    cli("data", "make", "out", "--count", 3, "--size", 64)
    args = ("data", "inspect", "own_images", "data.0.files.path=out")
    facts = json.loads(cli(*args, "data.0.files.area=1024", "--json").out)
    assert facts["data.0.files"]["buckets"] == {"32x32": 3}
    assert cli(*args).out.startswith("data.0.files:\nout: 3 items")


def test_contact_sheet(cli, tmp_path):
    cli("data", "make", "out", "--count", 3, "--size", 64)
    Image.new("RGB", (128, 64)).save(tmp_path / "out" / "wide.png")
    with (tmp_path / "out" / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "wide.png", "caption": "wide"}) + "\n")
    outcome = cli("data", "inspect", "out", "--sheet", "sheet.png")
    assert outcome.paths[-1] == "sheet.png"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 192 and sheet.height > 96 + 192  # rows of one and of three
    assert cli("data", "inspect", "out", "--sheet", "sheet.png").code == 2
    assert cli("data", "inspect", "out", "--sheet", "sheet.png", "--force").code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((".",), "holds no images or clips"),
        (("nowhere",), "nowhere: no such file or folder"),
        ((".", "areas=3"), "did you mean 'area'"),
        ((".", "area=-3"), "area = -3"),
        ((".", "area"), "key=value"),
        (("world_t2i",), "no data of files"),
        (("own_images", "data.0.files.layout=tables"), "did you mean 'table'"),
        (("nowhere.yaml",), "no such recipe file"),
    ],
)
def test_bad_input(refused, args, words):
    assert words in refused("data", "inspect", *args)

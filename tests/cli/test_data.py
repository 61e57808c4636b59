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
    outcome = cli("data", "inspect", "out", "--json")
    facts = json.loads(outcome.out)
    assert outcome.code == 0
    assert facts["kinds"] == {"video": 3}
    assert facts["sizes"] == {"32x32 x 5 frames": 3}
    assert (facts["captioned"], facts["broken"], facts["absent"]) == (3, {}, [])


def test_inspect_finds_what_is_broken_absent_or_without_a_caption(cli, tmp_path):
    cli("data", "make", "out", "--count", 5, "--size", 32)
    folder = tmp_path / "out"
    first = folder / "000000.png"
    first.write_bytes(first.read_bytes()[:60])
    (folder / "000001.png").unlink()
    Image.new("RGB", (8, 4)).save(folder / "stray.png")
    outcome = cli("data", "inspect", "out", "--json")
    facts = json.loads(outcome.out)
    assert outcome.code == 3
    assert list(facts["broken"]) == ["000000.png"]
    assert facts["absent"] == ["000001.png"]
    assert facts["uncaptioned"] == ["stray.png"]
    assert facts["sizes"] == {"32x32": 3, "8x4": 1}
    assert "1 broken, 1 absent, 1 without a caption" in cli("data", "inspect", "out").out


def test_captions_beside_the_files(cli, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a grey square\n")
    facts = json.loads(cli("data", "inspect", ".", "--json").out)
    assert (facts["captioned"], facts["frequent_words"]) == (1, ["a", "grey", "square"])


def test_contact_sheet(cli, tmp_path):
    cli("data", "make", "out", "--count", 5, "--size", 32)
    outcome = cli("data", "inspect", "out", "--sheet", "sheet.png")
    assert outcome.paths[-1] == "sheet.png"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > sheet.height  # five cells: three columns, two rows
    assert cli("data", "inspect", "out", "--sheet", "sheet.png").code == 2
    assert cli("data", "inspect", "out", "--sheet", "sheet.png", "--force").code == 0


def test_malformed_metadata_names_its_line(refused, tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "a"}\n{}\n')
    assert "metadata.jsonl:2: needs file_name and caption" in refused("data", "inspect", ".")


def test_an_empty_folder_is_bad_input(refused, tmp_path):
    assert "holds no images or videos" in refused("data", "inspect", ".")

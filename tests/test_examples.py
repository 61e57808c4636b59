"""The scripts of `examples/`, with pictures drawn here in place of a font's."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from statefilm.cli.main import run

FOLDER = Path(__file__).parents[1] / "examples"


@pytest.fixture
def own_data(monkeypatch):
    spec = importlib.util.spec_from_file_location("own_data", FOLDER / "own_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def drawn(font, character):
        picture = Image.new("RGBA", (100 + ord(character) % 40, 110))
        ImageDraw.Draw(picture).ellipse((10, 10, 90, 90), fill="red")
        return picture

    monkeypatch.setattr(module, "drawn", drawn)
    monkeypatch.setattr(module, "FILMED", module.FILMED[:2])
    return module


def test_own_pictures_are_odd_and_one_is_broken(own_data, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    own_data.write_pictures(None, tmp_path / "pictures")
    names = [path for path in (tmp_path / "pictures").iterdir() if path.suffix != ".txt"]
    kinds = set()
    for path in names:
        with Image.open(path) as picture:
            kinds.add((picture.format, picture.mode))
    assert kinds >= {("PNG", "RGBA"), ("WEBP", "RGBA"), ("PNG", "RGB"), ("JPEG", "RGB")}
    assert all(path.with_suffix(".txt").read_text().strip() for path in names)
    capsys.readouterr()
    run(["data", "verify", str(tmp_path / "pictures")])
    assert "broken.png" in capsys.readouterr().out


def test_own_clips_fall_into_buckets(own_data, tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    own_data.write_clips(None, tmp_path / "clips")
    count = 2 * 2 * len(own_data.MOVES)
    assert len([*(tmp_path / "clips").glob("*.mp4")]) == count
    capsys.readouterr()
    assert run(["data", "inspect", "own_clips", f"data.*.files.path={tmp_path / 'clips'}"]) == 0
    report = capsys.readouterr().out
    assert report.count(f"{count} items") == report.count("0 dropped, 0 broken") == 2


def test_moves_move(own_data):
    picture = own_data.drawn(None, "x")
    draws = own_data.random.Random(0)
    for move in own_data.MOVES:
        frames = [*own_data.moved(picture, move, (80, 64), "#3f6fd8", draws)]
        assert len(frames) == own_data.FRAMES
        assert frames[0].size == (80, 64) and frames[0].tobytes() != frames[10].tobytes()

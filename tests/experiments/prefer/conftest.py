"""Two folders of small pictures and clips with the same names, and a session about them."""

import numpy as np
import pytest
from PIL import Image

from statefilm.experiments.prefer import ChoiceLog, Session, find_pairs, shuffled
from statefilm.pipelines.media import save_mp4, save_png
from statefilm.pipelines.provenance import make_provenance

COLORS = {"a": (200, 40, 40), "b": (40, 40, 200)}


def picture(color, size=24):
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[4:-4, 4:-4] = color
    return Image.fromarray(pixels)


def made_from(prompt):
    return make_provenance(
        model="toy",
        model_hash="0" * 64,
        prompt=prompt,
        seed=0,
        steps=1,
        guidance_scale=1.0,
        sampler="flow_euler",
        height=24,
        width=24,
        dtype="float32",
        device="cpu",
    )


@pytest.fixture
def folders(tmp_path):
    """a is red and b is blue; four pictures, one of them below a folder, and a clip."""
    for system, color in COLORS.items():
        image = picture(color)
        for name in ("one.png", "two.png", "deep/three.png"):
            save_png(image, tmp_path / system / name, made_from(f"a shape of {name}"))
        save_png(image, tmp_path / system / "four.png", made_from(f"one from {system}"))
        save_mp4([image] * 3, tmp_path / system / "five.mp4", 8, made_from("a <b>clip</b>"))
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def session(folders, tmp_path):
    pairs, _ = find_pairs(*folders)
    return Session(shuffled(pairs, 0), ChoiceLog(tmp_path / "choices.jsonl", ("red", "blue")))

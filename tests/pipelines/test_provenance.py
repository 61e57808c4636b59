"""Provenance: what goes into a file comes out of it, and becomes a command."""

import json
import shlex

import pytest
from PIL import Image

from statefilm import __version__
from statefilm.errors import UsageError
from statefilm.pipelines.media import save_mp4, save_png
from statefilm.pipelines.provenance import as_args, make_provenance, read_provenance, sidecar_path

PROMPTS = ["a red circle", "", 'a "quoted" circle, 100 %', "-starts with a dash", "ein größerer 圆"]


def provenance(**fields):
    known = {
        "model": "world-64",
        "model_hash": "0123456789abcdef" * 4,
        "prompt": "a red circle",
        "seed": 7,
        "steps": 30,
        "guidance_scale": 2.5,
        "sampler": "dpm++",
        "height": 64,
        "width": 32,
        "dtype": "float32",
        "device": "cpu",
    }
    return make_provenance(**{**known, **fields})


def black(count=1):
    return [Image.new("RGB", (16, 16))] * count


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_png_says_what_made_it(tmp_path, prompt):
    meta = provenance(prompt=prompt, negative_prompt="größe")
    path = save_png(black()[0], tmp_path / "a.png", meta)
    assert read_provenance(path) == meta
    assert meta["version"] == __version__


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_video_and_its_sidecar_say_what_made_it(tmp_path, prompt):
    meta = provenance(prompt=prompt, num_frames=3, fps=8)
    path = save_mp4(black(3), tmp_path / "a.mp4", 8, meta, min_side=0)
    assert read_provenance(path) == meta
    assert sidecar_path(path) == tmp_path / "a.json"
    assert read_provenance(sidecar_path(path)) == meta


def test_a_video_that_lost_its_tags_has_its_sidecar(tmp_path):
    meta = provenance(num_frames=3, fps=8)
    path = save_mp4(black(3), tmp_path / "a.mp4", 8, meta)
    sidecar = sidecar_path(path).read_text()
    save_mp4(black(3), path, 8, force=True)
    assert read_provenance(path) == meta == json.loads(sidecar)


def test_galleries_find_the_usual_text(tmp_path):
    meta = provenance(negative_prompt="noise\nand more")
    path = save_png(black()[0], tmp_path / "a.png", meta)
    with Image.open(path) as image:
        assert image.text["parameters"].split("\n") == [
            "a red circle",
            "Negative prompt: noise",
            "and more",
            "Steps: 30, Sampler: dpm++, CFG scale: 2.5, Seed: 7, Size: 32x64, "
            f"Model hash: 0123456789, Model: world-64, Version: statefilm {__version__}",
        ]


def test_an_image_as_a_command():
    assert shlex.join(as_args(provenance())) == (
        "statefilm image 'a red circle' --model world-64 --seed 7 --steps 30 "
        "--guidance-scale 2.5 --sampler dpm++ --height 64 --width 32 --dtype float32 --device cpu"
    )


def test_a_shift_is_part_of_the_command():
    assert "--sampler dpm++ --shift 3.0 --height" in shlex.join(as_args(provenance(shift=3.0)))


def test_a_video_as_a_command():
    args = as_args(provenance(num_frames=17, fps=8, negative_prompt="-noise", prompt="-a"))
    assert args[:2] == ["statefilm", "video"]
    assert args[args.index("--num-frames") + 1] == "17"
    assert args[args.index("--fps") + 1] == "8"
    assert args[-3:] == ["--negative-prompt=-noise", "--", "-a"]


def test_a_number_survives_the_command():
    args = as_args(provenance(guidance_scale=0.1 + 0.2))
    assert float(args[args.index("--guidance-scale") + 1]) == 0.1 + 0.2


def test_files_that_do_not_say_are_refused(tmp_path):
    plain = save_png(black()[0], tmp_path / "plain.png")
    with pytest.raises(UsageError, match=r"plain\.png: holds no provenance"):
        read_provenance(plain)
    video = save_mp4(black(3), tmp_path / "plain.mp4", 8)
    with pytest.raises(UsageError, match=r"plain\.mp4: holds no provenance"):
        read_provenance(video)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_provenance(tmp_path / "absent.png")
    with pytest.raises(UsageError, match="read from"):
        read_provenance(__file__)
    for name in ("a.png", "a.mp4"):
        (tmp_path / name).write_bytes(b"not what it says")
        with pytest.raises(UsageError, match="damaged"):
            read_provenance(tmp_path / name)
    (tmp_path / "a.json").write_text('["a list"]')
    with pytest.raises(UsageError, match="holds no provenance"):
        read_provenance(tmp_path / "a.json")
    with pytest.raises(UsageError, match="incomplete provenance"):
        as_args({"prompt": "a red circle"})

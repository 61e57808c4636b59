"""Whatever is wrong with the input: one line, exit code 2, and nothing lost."""

import json
import shutil
from importlib import resources

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

PROMPT = "a red circle"


@pytest.fixture
def broken(model, tmp_path):
    """A copy of the model folder, to be damaged, outside the working folder's view."""
    return shutil.copytree(model, tmp_path / "broken")


def weights(folder):
    return next((folder / "transformer").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--size", "60x16"), "width 60 is not a multiple of 8: the nearest valid are 56 and 64"),
        (("-H", 4), "height 4 is not a multiple of 8: the nearest valid is 8"),
        (("-H", 12), "height 12 is not a multiple of 8: the nearest valid are 8 and 16"),
        (("--size", "64"), "size '64' is not WIDTHxHEIGHT"),
        (("--size", "16x16", "-H", 16), "--size and --height or --width at once"),
        (("--steps", 0), "invalid value for '--steps'"),
        (("-N", 0), "invalid value for '--num' / '-N'"),
        (("-g", "nan"), "invalid value for '--guidance-scale' / '-g'"),
        (("-s", -1), "invalid value for '--seed' / '-s'"),
        (("-s", 2**63), f"is above {2**63 - 1}"),
        (("--sampler", "ddmp"), "ddpm"),
        (("--shift", 0), "shift 0 is not a finite number above 0"),
        (("--dtype", "bfloat61"), "unknown dtype 'bfloat61'"),
        (("--device", "tpu9"), "device 'tpu9' is not available"),
        (("-o", "a.jpg"), "'a.jpg' does not end in .png"),
        (("-o", "{prmpt}.png"), "unknown field {prmpt}"),
        (("-N", 2, "-o", "{prompt}.png"), "gives several samples one name"),
    ],
)
def test_values(refused, model, tmp_path, args, says):
    assert says in refused("image", PROMPT, "-m", model, *args)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--num-frames", 6), "num_frames 6 is not 1 + k * 4: the nearest valid are 5 and 9"),
        (("--num-frames", 1), "num_frames 1 is an image; a video has 5 or more"),
        (("--num-frames", 5, "--seconds", 1), "--num-frames and --seconds at once"),
        (("--fps", 0), "fps 0.0 is not between 0 and 1000"),
        (("--seconds", "nan"), "seconds nan is not between 0 and 1000"),
    ],
)
def test_video_values(refused, model, tmp_path, args, says):
    assert says in refused("video", PROMPT, "-m", model, *args)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("reads", "args", "says"),
    [
        ("none", ("--num-frames", 0), "invalid value for '--num-frames'"),
        (
            "none",
            ("--size", "7x8"),
            "width 7 is not a multiple of 2: the nearest valid are 6 and 8",
        ),
        ("none", ("--window", 2, "--overlap", 2), "overlap 2 is not a whole number from 0 to 1"),
        ("none", ("--overlap", 1), "overlap 1 needs a window"),
        ("none", ("-g", 3), "guidance_scale 3 needs a prompt or class_labels"),
        ("none", (PROMPT,), "none reads no text\nhint: leave prompts out\n"),
        ("none", ("--label", 0), "none has no classes"),
        ("none", ("--sampler", "flow_euler"), "does not fit a model with epsilon"),
        ("class", ("-n", PROMPT), "leave prompts out, --label chooses a class"),
        ("class", ("--label", "red wals"), "'red wals'\nhint: did you mean 'red walls'?"),
        ("class", ("--label", 9), "class label 9: valid are 0 to 2, and 3 for no class"),
        ("text", (PROMPT, "--label", "red walls"), "text has no classes"),
        ("text", (PROMPT, "-p", "b", "--label", 1, "--label", 2, "--label", 3), "3 labels for 2"),
        ("text", (), "no prompt"),
    ],
)
def test_unet_values(refused, unet, tmp_path, reads, args, says):
    assert says in refused("video", *args, "-m", unet(reads))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("absent.mp4", "absent.mp4: no such file or folder of frames"),
        ("a.gif", "a.gif: first frames are an MP4, a PNG, or a folder of PNGs"),
        ("empty", "empty: holds no PNG"),
        ("bad.png", "bad.png: cannot be read"),
        ("bad.mp4", "bad.mp4: cannot be read"),
        ("mixed", "mixed: frames of several sizes, 8x8 and 16x8"),
        ("wide.png", "wide.png: frames of 16x8, the clip is 8x8\nhint: --size 16x8"),
        ("whole", "3 given frames leave nothing to make of num_frames 3"),
    ],
)
def test_first_frames(refused, unet, tmp_path, path, says):
    for folder in ("empty", "mixed", "whole"):
        (tmp_path / folder).mkdir()
    for name in ("a.gif", "bad.png", "bad.mp4"):
        (tmp_path / name).write_bytes(b"not what it says")
    for name in ("wide", "mixed/1"):
        Image.new("RGB", (16, 8)).save(tmp_path / f"{name}.png")
    for name in ("mixed/2", "whole/1", "whole/2", "whole/3"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    assert says in refused("video", "-m", unet("none"), "--first-frames", path, "-o", "x.mp4")
    assert not (tmp_path / "x.mp4").exists()


def test_flags_of_unets_for_another_model(refused, model, tmp_path):
    (tmp_path / "a.png").touch()
    for flag, value in (("--window", 2), ("--overlap", 0), ("--first-frames", "a.png")):
        says = f"{flag} is for video U-Nets"
        assert says in refused("video", PROMPT, "-m", model, flag, value)
    assert "has no classes" in refused("video", PROMPT, "-m", model, "--label", "")


def test_a_folder_of_another_or_an_unknown_mixer(refused, unet, tmp_path):
    folder = shutil.copytree(unet("none"), tmp_path / "other")
    config = folder / "unet" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"state_dim": 4', '"state_dim": 4, "conv_kernel": 5'))
    assert "conv1d.weight' is (" in refused("video", "-m", folder)
    config.write_text(text.replace('"hydra"', '"bimamba2"'))
    error = refused("video", "-m", folder)
    assert f"{folder}: cannot be loaded (weights are not those of a U-Net with 'bimamba2'" in error
    assert "mixer." in error
    config.write_text(text.replace('"hydra"', '"hidra"'))
    for command in (("video", "-m"), ("info",)):
        assert "did you mean 'hydra'" in refused(*command, folder)


def test_evaluations_of_text_to_image_name_what_they_need(refused, unet):
    says = "is a VideoDiffusionPipeline: a HTHPipeline is needed here"
    assert says in refused("eval", "world", "-m", unet("none"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("image", PROMPT, "--stepz", 3), "did you mean --steps?"),
        (("imagine", PROMPT), "did you mean 'image'?"),
        (("data", "inspct", "."), "did you mean 'inspect'?"),
        (("image", PROMPT, "-m", "world-46"), "unknown model 'world-46'"),
        (("image", PROMPT, "-m", "no/such/folder"), "no/such/folder"),
        (("info", "hth_5c"), "did you mean 'hth_5b'?"),
        (("train", "world_t2"), "unknown recipe 'world_t2'"),
        (("train", "no_such.yaml"), "no_such.yaml"),
        (("eval", "world", "--tasks", "colours", "--no-video"), "did you mean 'colors'?"),
        (("eval", "world", "--clip-tasks", "event_ordr"), "did you mean 'event_order'?"),
        (("meta", "nothing.png"), "nothing.png"),
        (("image",), "no prompt"),
        (("image", "  "), "prompt 1 is empty"),
        (("data", "make", "out", "--size", 7), "size 7"),
        (("data", "inspect", "nowhere"), "nowhere: no such file or folder"),
    ],
)
def test_names(refused, tmp_path, args, says):
    assert says in refused(*args)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_not_a_model(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in refused("image", PROMPT, "-m", tmp_path / "empty")
    assert "config.json" in refused("info", tmp_path / "empty")


def test_truncated_weights(refused, broken):
    file = weights(broken)
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file}: damaged or truncated" in refused("image", PROMPT, "-m", broken)
    file.write_bytes(b"")
    assert str(file) in refused("image", PROMPT, "-m", broken)
    assert str(file) in refused("info", broken)


def test_weights_with_nan(refused, broken):
    file = weights(broken)
    tensors = load_file(file)
    tensors["token_in.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    error = refused("image", PROMPT, "-m", broken)
    assert "'token_in.weight' holds NaN" in error and str(file) in error


def test_damaged_config(refused, broken):
    (broken / "transformer" / "config.json").write_text('{"dim": 32,')
    assert str(broken) in refused("image", PROMPT, "-m", broken)
    assert str(broken) in refused("info", broken)
    (broken / "transformer" / "config.json").write_text('{"dim": 33}')
    assert "33" in refused("info", broken)


def test_a_pickle_among_the_weights(refused, broken):
    (broken / "transformer" / "model.bin").write_bytes(b"\x80\x04.")
    assert "never pickles" in refused("image", PROMPT, "-m", broken)


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.csv"])
def test_empty_prompts_file(refused, tmp_path, name):
    (tmp_path / name).write_text("\n\n")
    assert f"{name}: holds no prompts" in refused("image", "--prompts-file", name)


def test_a_path_that_exists(refused, model, tmp_path):
    (tmp_path / "a.png").write_text("precious")
    assert "a.png exists" in refused("image", PROMPT, "-m", model, "-o", "a.png")
    assert (tmp_path / "a.png").read_text() == "precious"
    for force in ((), ("--force",)):
        args = ("image", PROMPT, "-m", model, "-o", "a.png/b.png", *force)
        assert "a.png is not a folder" in refused(*args)
        args = ("eval", "world", "-m", model, "-o", "a.png", *force)
        assert "a.png is not a folder" in refused(*args)
    (tmp_path / "clip.json").write_text("precious")
    assert "clip.json exists" in refused("video", PROMPT, "-m", model, "-o", "clip.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "clip.json"}


def test_nothing_is_made_when_one_of_many_exists(refused, model, tmp_path):
    (tmp_path / "2.png").write_text("precious")
    args = ("image", PROMPT, "-m", model, "-s", 0, "-N", 4, "-o", "{seed}.png")
    assert "2.png exists" in refused(*args)
    assert [path.name for path in tmp_path.iterdir()] == ["2.png"]


def test_a_data_folder_that_exists(refused, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("precious")
    assert "old exists" in refused("data", "make", "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["file"]


def test_a_file_without_provenance(refused, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk")
    assert "a.png" in refused("meta", "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"prompt": PROMPT}))
    assert "incomplete provenance" in refused("meta", "a.json", "--as-args")


def test_recipe_with_an_unknown_key(refused, tmp_path):
    text = resources.files("statefilm").joinpath("recipes/smoke_world_t2i.yaml").read_text("utf-8")
    (tmp_path / "r.yaml").write_text(text + "optimiser: {lr: 1}\n")
    assert "unknown key 'optimiser'" in refused("train", "r.yaml", "-o", "run")
    assert not (tmp_path / "run").exists()

"""Runs on a user's own files: buckets, quarantine, captions and classes, workers and resume."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from statefilm import HTHPipeline
from statefilm.pipelines import VideoDiffusionPipeline
from statefilm.pipelines.media import save_mp4
from statefilm.training import Trainer, load_recipe
from statefilm.training.batches import Batches
from statefilm.training.objectives import Draw
from statefilm.training.parallel import Ranks
from statefilm.training.sources import OwnFiles
from statefilm.training.streams import FileSource, Stream
from statefilm.training.tasks import build_task

from .conftest import TINY, assert_same_run, metrics, train

SIZES = [(40, 30), (31, 47), (64, 64), (33, 35), (90, 41), (38, 60), (50, 50), (45, 32)]
WORDS = ["Red", "green", "blue", "A dog's"]


@pytest.fixture
def images(tmp_path):
    """Captioned pictures of odd sizes, one of them transparent; none is broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        pixels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        pixels[..., 3] = 0 if number == 2 else 255
        mode = "RGBA" if number == 2 else "RGB"
        Image.fromarray(pixels[..., : len(mode)]).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{WORDS[number % 4]} picture, number {number}.")
    return folder


@pytest.fixture
def clips(tmp_path):
    """Clips of 9 frames, some upright, and no captions."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(5):
        size = (48, 32) if number % 2 else (32, 48)
        frames = [Image.new("RGB", size, (20 * moment, 90, 40 * number)) for moment in range(9)]
        save_mp4(frames, folder / f"{number}.mp4", 8, min_side=0)
    return folder


def stream(path, batch_size=2, **fields):
    files = {"path": str(path), "area": 1024, "step": 8, "ratios": [0.5, 1, 2], **fields}
    return {"files": files, "batch_size": batch_size}


def file_recipe(*streams, changes=()):
    return load_recipe("smoke_world_t2i", [*TINY, f"data={json.dumps(streams)}", *changes])


def draw(number, size, generators):
    noise = torch.stack([torch.randn(3, *size, generator=one) for one in generators])
    return Draw(noise, noise.flatten(1).mean(1).sigmoid(), torch.zeros(len(noise), dtype=bool))


def batches_of(path, batch_size=3, seed=0, **fields):
    return Batches(seed, [Stream.model_validate(stream(path, batch_size, **fields))], draw)


def test_a_step_is_of_one_bucket_and_an_epoch_shows_every_picture(images):
    batches = batches_of(images)
    epoch = batches.sources[0].reader.plan.steps_per_epoch
    steps = [batches[step] for step in range(epoch)]
    assert {tuple(batch.frames.shape[2:]) for batch in steps} == set(batches.sources[0].sizes)
    assert all(batch.noise.shape == batch.frames.shape for batch in steps)
    assert {name for batch in steps for name in batch.names} == {f"{n}.png" for n in range(8)}
    assert all(
        caption.endswith(f"number {name[0]}.")
        for batch in steps
        for name, caption in zip(batch.names, batch.captions, strict=True)
    )


def test_every_picture_is_seen_as_often_whatever_the_weights(images):
    own = Stream.model_validate({**stream(images), "weight": 0.3})
    world = Stream.model_validate({"world": {"size": 32}, "batch_size": 2})
    batches = Batches(0, [own, world], draw)
    reader = batches.sources[0].reader
    mine = [step for step in range(60) if batches.order.stream(step) == 0]
    seen = Counter(name for step in mine for name in batches[step].names)
    planned = (number for turn in range(len(mine)) for number in reader.plan.entries(turn))
    assert seen == Counter(reader.source.entries[number].name for number in planned)
    assert set(seen) == {f"{number}.png" for number in range(8)}


def test_transparent_pictures_show_the_background(images):
    for color, level in (((255, 255, 255), 1.0), ((0, 0, 0), -1.0)):
        batches = batches_of(images, background=color)
        found = [batches[step] for step in range(batches.sources[0].reader.plan.steps_per_epoch)]
        shown = [b.frames[b.names.index("2.png")] for b in found if "2.png" in b.names]
        assert shown and all((frames == level).all() for frames in shown)


def test_workers_give_the_same_batches_and_errors_of_one_line(images):
    alone = list(batches_of(images).loader(0, 6, workers=0, pin=False))
    helped = list(batches_of(images).loader(0, 6, workers=2, pin=False))
    for one, two in zip(alone, helped, strict=True):
        assert one.names == two.names and one.captions == two.captions
        assert torch.equal(one.frames, two.frames) and torch.equal(one.noise, two.noise)
    batches = batches_of(images)
    for file in images.glob("*.png"):
        file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="are bad") as caught:
        list(batches.loader(0, 6, workers=2, pin=False))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_on_files_is_exact_to_the_bit(images, tmp_path, workers):
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    changes = ("steps=6", "samples.every_steps=0", "checkpoint.every_steps=3", f"workers={workers}")
    recipe = file_recipe(stream(images), changes=changes)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "broken")
    for folder in (tmp_path / "broken").glob("checkpoints/step-00000006/*"):
        folder.write_bytes(b"")
    train(recipe, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken", 6)
    rows = (tmp_path / "whole" / "quarantine-0.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["broken.png"]


def test_a_run_keeps_its_words_whatever_becomes_of_the_data(images, tmp_path, warnings_of):
    changes = ["steps=2", "samples.every_steps=0", "text.max_length=8"]
    saved = train(file_recipe(stream(images), changes=changes), tmp_path / "run")
    before = HTHPipeline.from_pretrained(saved).tokenizer.get_vocab()
    (images / "0.png").unlink()
    for number in range(1, 8):
        (images / f"{number}.txt").write_text(f"a new zebra, dog or picture {number}")
    changes[0] = "steps=3"
    saved = train(file_recipe(stream(images), changes=changes), tmp_path / "run")
    assert HTHPipeline.from_pretrained(saved).tokenizer.get_vocab() == before
    told = "\n".join(warnings_of())
    assert "data.0 is not what it was at the checkpoint" in told
    assert "of the words in captions are unknown" in told


def test_streams_do_not_share_their_bad_items(images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in images.glob("*.png"):
        (other / file.name).write_bytes(file.read_bytes())
    content = (images / "4.png").read_bytes()
    recipe = file_recipe(stream(images, 4), stream(other, 4), changes=["steps=3"])
    task = build_task(recipe, torch.device("cpu"), Ranks(), tmp_path / "run")
    (images / "4.png").write_bytes(content[:60])
    seen = [set(), set()]
    for number in (0, 1):
        for step in range(24):
            seen[number] |= set(task.batches.batch(number, step).names)
    assert "4.png" not in seen[0] and "4.png" in seen[1]
    (images / "4.png").write_bytes(content)  # what was mended is used again
    assert any("4.png" in task.batches.batch(0, step).names for step in range(24))


def test_a_picture_that_breaks_later_is_replaced_and_remembered(images, tmp_path):
    recipe = file_recipe(stream(images, 4), changes=["steps=3", "samples.every_steps=0"])
    trainer = Trainer(recipe, tmp_path / "run", device="cpu", quiet=True)
    trainer._build()
    (images / "4.png").write_bytes((images / "4.png").read_bytes()[:60])
    batches = trainer.task.batches
    epoch = batches.sources[0].reader.plan.steps_per_epoch
    seen = {name for step in range(epoch) for name in batches[step].names}
    assert "4.png" not in seen and len(seen) >= 6
    rows = (tmp_path / "run" / "quarantine-0.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["4.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_items_that_are_set_aside_are_told_of_once_and_at_the_end(
    images, tmp_path, workers, warnings_of
):
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    changes = ["steps=12", "samples.every_steps=0", f"workers={workers}"]
    train(file_recipe(stream(images), changes=changes), tmp_path / "one")
    told = "data.0.files: {} of 9 items cannot be used and are set aside; {} lists them"
    file = tmp_path / "one" / "quarantine-0.jsonl"
    assert [line for line in warnings_of() if "set aside" in line] == [told.format(1, file)]
    for number in (2, 6):  # whole headers: they are found on the way
        (images / f"{number}.png").write_bytes((images / f"{number}.png").read_bytes()[:-40])
    train(file_recipe(stream(images), changes=changes), tmp_path / "more")
    file = tmp_path / "more" / "quarantine-0.jsonl"
    first, last = (told.format(count, file) for count in (1, 3))
    assert [line for line in warnings_of() if str(file) in line] == [first, last]


def test_bad_items_of_the_validation_are_told_of(images, tmp_path, warnings_of):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for number in range(4):
        data = (images / f"{number}.png").read_bytes()
        (held_out / f"{number}.png").write_bytes(data[: -40 if number == 1 else None])
    validation = {"data": stream(held_out, 4), "batches": 2, "every_steps": 1}
    changes = ["steps=2", "samples.every_steps=0", f"validation={json.dumps(validation)}"]
    train(file_recipe(stream(images), changes=changes), tmp_path / "run")
    told = [line for line in warnings_of() if "set aside" in line]
    assert len(told) == 1
    assert told[0].startswith("validation.data.files: 1 of 4 items cannot be used")


def test_a_run_goes_on_when_what_stopped_it_was_mended(images, tmp_path):
    whole = (images / "3.png").read_bytes()
    for number in range(6):
        (images / f"bad-{number}.png").write_bytes(whole[:-40])
    recipe = file_recipe(stream(images), changes=["steps=40", "samples.every_steps=0"])
    file = tmp_path / "run" / "quarantine-0.jsonl"
    with pytest.raises(ValueError, match=r"5 of \d+ items are bad") as caught:
        train(recipe, tmp_path / "run")
    assert str(caught.value).endswith(f"mend or remove all that {file} lists")
    for number in range(6):
        (images / f"bad-{number}.png").write_bytes(whole)
    (images / "5.png").write_bytes((images / "5.png").read_bytes()[:-40])
    train(recipe, tmp_path / "run")
    rows = file.read_text("utf-8").splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["5.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_disk_that_is_full_is_named_by_workers_too(images):
    (images / "4.png").write_bytes((images / "4.png").read_bytes()[:60])
    config = FileSource(**stream(images)["files"])
    source = OwnFiles(0, config, 3, "data.0.files", Path("/dev/full"))
    batches = Batches(0, [Stream(files=config, batch_size=3)], draw, sources=[source])
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '/dev/full'$"):
        list(batches.loader(0, 6, workers=2, pin=False))


def test_a_run_whose_data_are_bad_stops_in_one_line(images, tmp_path):
    for number in range(6):
        (images / f"bad-{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"5 of 14 items are bad, more than 1.0%") as caught:
        train(file_recipe(stream(images)), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_the_tokenizer_knows_the_words_of_the_captions(images, tmp_path, warnings_of):
    changes = ["steps=1", "samples.every_steps=0", "text.max_length=6"]
    saved = train(file_recipe(stream(images), changes=changes), tmp_path / "all")
    tokenizer = HTHPipeline.from_pretrained(saved).tokenizer
    assert tokenizer.tokenize("RED picture, a dog's!") == [
        *("red", "picture", ",", "a", "dog", "'", "s")
    ]
    cut = [line for line in warnings_of() if "text.max_length 6 and are cut" in line]
    assert len(cut) == 1 and "8 of 8 captions" in cut[0]
    assert not any("does not see" in line for line in warnings_of())
    changes.append("text.vocabulary_size=4")
    saved = train(file_recipe(stream(images), changes=changes), tmp_path / "few")
    words = set(HTHPipeline.from_pretrained(saved).tokenizer.get_vocab())
    assert words == {"<pad>", "</s>", "<unk>", ",", ".", "number", "picture"}


def test_images_and_clips_share_a_run_and_sample(images, clips, tmp_path, warnings_of):
    for clip in clips.iterdir():
        clip.rename(images / f"clip-{clip.name}")
    changes = ["steps=4", "samples.every_steps=4"]
    recipe = file_recipe(stream(images, lengths=[1, 5]), changes=changes)
    saved = train(recipe, tmp_path / "run")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    assert all("loss_mixed" in line for line in metrics(tmp_path / "run"))
    assert HTHPipeline.from_pretrained(saved).config.default_num_frames == 5


def test_the_saved_model_plays_at_the_speed_of_its_clips(images, clips):
    recipe = file_recipe(stream(images), stream(clips, lengths=[5], fps=4))
    task = build_task(recipe, torch.device("cpu"), Ranks())
    assert task.pipeline.config.default_fps == 4


def test_noise_levels_follow_the_number_of_tokens(images):
    levels = []
    for changes in ((), ("objective.shift_tokens=1",)):
        recipe = file_recipe(stream(images, ratios=[1]), changes=changes)
        task = build_task(recipe, torch.device("cpu"), Ranks())
        levels.append(torch.logit(task.batches[0].level.double()))
    tokens = task.pipeline.num_tokens(*task.batches.sources[0].sizes[0])
    torch.testing.assert_close(
        levels[1] - levels[0], torch.full((2,), 0.5 * math.log(tokens)).double(), rtol=0, atol=1e-3
    )


def test_a_unet_trains_on_clips_without_captions(clips, tmp_path):
    data = json.dumps([stream(clips, lengths=[6], area=24 * 40, fps=8)])
    changes = ["model.overrides.num_classes=null", "steps=2", "samples.every_steps=0"]
    recipe = load_recipe("smoke_clips_maze", [f"data={data}", *changes])
    saved = train(recipe, tmp_path / "run")
    assert VideoDiffusionPipeline.from_pretrained(saved).config.default_num_frames == 6


def test_classes_of_folders_reach_a_unet(images, tmp_path):
    for number in range(8):
        folder = images / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        (images / f"{number}.png").rename(folder / f"{number}.png")
        (images / f"{number}.txt").unlink()
    batches = batches_of(images, layout="imagefolder")
    assert batches.sources[0].num_classes == 2
    batch = batches[0]
    expected = [int(name.startswith("odd")) for name in batch.names]
    assert batch.labels.tolist() == expected


def test_data_without_captions_are_told_of(clips, tmp_path, warnings_of):
    recipe = file_recipe(stream(clips, lengths=[5]), changes=["steps=1", "samples.every_steps=0"])
    train(recipe, tmp_path / "run")
    assert "data.0 has no captions: what is made cannot be asked for" in warnings_of()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "nowhere"}, r"data\.0\.files: nowhere: no such file or folder"),
        ({"area": 1024 * 1024}, r"8 of 8 items are dropped, as '0.png': .* would be enlarged"),
        ({"lengths": [5]}, r"8 of 8 items are dropped, as '0.png': no bucket is for images"),
        ({"step": 6}, r"data\.0\.files\.step: height \d+ is not a multiple of 8"),
        ({"area": 9}, "area 9 is less than one step each way"),
        ({"layout": "folders"}, "did you mean 'folder'"),
        ({"split": "training"}, "did you mean 'train'"),
        ({"background": [0, 0, 256]}, "background.2 = 256"),
        ({"lengths": []}, "lengths = "),
        ({"template": "a photo"}, "has not one {}"),
    ],
)
def test_bad_sections_are_named_in_one_line(images, tmp_path, fields, words):
    section = stream(images)
    section["files"] |= fields
    with pytest.raises(ValueError, match=words) as caught:
        train(file_recipe(section), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_lengths_that_the_model_does_not_take_are_refused(clips, tmp_path):
    with pytest.raises(ValueError, match=r"data\.0\.files\.lengths 6 is not 1 \+ k \* 4"):
        train(file_recipe(stream(clips, lengths=[6])), tmp_path / "run")


def test_a_section_is_read_back_as_it_was_written():
    section = FileSource(path="here", lengths=(1, 5))
    assert FileSource.model_validate(section.model_dump(mode="json")) == section


def test_single_frames_of_clips_are_images(clips):
    source = batches_of(clips, stills=True).sources[0]
    assert {size[0] for size in source.sizes} == {1}
    frames = source.samples(0, 3).frames
    assert frames.shape[2] == 1 and frames.std() > 0
    with pytest.raises(ValueError, match=r"stills are single frames: lengths \[1, 5\] must be"):
        FileSource(path="here", stills=True, lengths=(1, 5))


SMALL_HTH = [
    "model.overrides={dim: 32, ff_dim: 64, head_dim: 16, text_dim: 32, patch_width: 4,"
    " mixer_options: {hydra: {state_dim: 8, head_dim: 16}}}",
    "text.overrides={d_model: 32, d_kv: 8, d_ff: 32, num_layers: 1}",
]
SMALL_UNET = [
    "model.overrides={dim: 8, multipliers: [1, 2], groups: 4, time_dim: 16, spatial_heads: 2}",
    "data.0.files.lengths=[4]",
    "samples.num_frames=4",
]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("own_images", SMALL_HTH),
        (
            "own_clips",
            [
                *(*SMALL_HTH, "model.convert_from=null"),
                *("data.0.files.lengths=[1, 5]", "data.1.files.path=CLIPS"),
            ],
        ),
        ("unet_minerl", SMALL_UNET),
        ("unet_ucf101", [*SMALL_UNET, "data.0.files.layout=auto"]),
    ],
)
def test_the_shipped_recipes_for_files_train(name, changes, images, clips, tmp_path):
    folder = images if name == "own_images" else clips
    recipe = load_recipe(
        name,
        [
            *(change.replace("CLIPS", str(clips)) for change in changes),
            f"data.0.files.path={folder}",
            "data.0.files.area=1024",
            "data.0.batch_size=2",
            *("steps=1", "workers=0", "samples.every_steps=1", "samples.steps=1"),
            *("samples.count=2", "optimizer.warmup_steps=1"),
        ],
    )
    assert (train(recipe, tmp_path / "run") / "model_index.json").is_file()
    made = list((tmp_path / "run" / "samples").glob("*"))
    assert bool(made) == (name != "own_clips")  # whose clips have no captions to ask for

"""Training from latents: the run that the files themselves would have given, without the VAE."""

import json
import shutil

import pytest
import torch
from PIL import Image

from statefilm.data.latents import shard_files
from statefilm.models.vae import encode_frames, load_vae
from statefilm.training import load_recipe
from statefilm.training.latents import Options, encode_stream, spec_of
from statefilm.training.parallel import Ranks
from statefilm.training.planning.shells import recipe_shell
from statefilm.training.tasks import build_task

from ..conftest import metrics, train, weights

CPU = torch.device("cpu")
MODEL = {"in_channels": 4, "patch_size": [1, 2, 2], "patch_embed": "plain", "text_dim": 16}
MODEL |= {"plan": [{"mixer": "hydra", "image_scan": "H", "video_scan": "H"}], "dim": 32}
MODEL |= {
    "ff_dim": 64,
    "head_dim": 16,
    "mixer_options": {"hydra": {"state_dim": 8, "head_dim": 16}},
}
FRESH = "text={preset: world_t5, train: true, max_length: 8, overrides: {d_model: 16, d_kv: 8, "
FRESH += "d_ff: 16, num_layers: 1, num_heads: 2}}"


@pytest.fixture
def pictures(tmp_path):
    """Seven captioned pictures of two shapes, in which their buckets crop nothing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(7):
        size = (60, 20) if number % 3 == 2 else (20, 20)
        Image.new("RGB", size, (30 * number, 99, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"level {number}")
    return folder


@pytest.fixture
def recipe(vae, text):
    """A recipe that trains behind the VAE and the text encoder, on a stream of some kind."""

    def load(source, *changes):
        data = json.dumps([{**source, "batch_size": 2}])
        models = [f"vae={vae}", f"text={{init_from: {text}, max_length: 8}}"]
        models += [f"model.overrides={json.dumps(MODEL)}", "objective.caption_dropout=0.5"]
        run = ["steps=6", "samples.every_steps=0", f"data={data}"]
        return load_recipe("smoke_world_t2i", [*models, *run, *changes])

    return load


@pytest.fixture
def files(pictures):
    return {"files": {"path": str(pictures), "area": 192, "step": 8, "ratios": [1, 3]}}


@pytest.fixture
def latents(files, recipe, tmp_path):
    """The pictures, encoded as `statefilm encode` does it."""
    made = recipe(files)
    spec = spec_of(made, dtype="float32", device="cpu")
    encode_stream(made, 0, spec, tmp_path / "latents", Options(batch_size=3))
    return {"latents": {"path": str(tmp_path / "latents")}}


def task_of(recipe):
    return build_task(recipe, CPU, Ranks())


def test_a_run_on_latents_is_the_run_on_files(recipe, files, latents, tmp_path):
    train(recipe(files), tmp_path / "files")
    train(recipe(latents), tmp_path / "latents-run")
    runs = (metrics(tmp_path / name) for name in ("latents-run", "files"))
    for here, there in zip(*runs, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-4)
        assert here["loss_image"] == here["loss"]


def test_a_batch_holds_what_the_encoders_make_of_the_files(recipe, files, latents, vae):
    own, encoded = task_of(recipe(files)), task_of(recipe(latents))
    model, dropped = load_vae(vae), 0
    for step in range(own.batches.sources[0].reader.plan.steps_per_epoch):
        there, here = own.batches[step], encoded.batches[step]
        assert here.encoded and not there.encoded
        assert (here.names, here.captions) == (there.names, there.captions)
        with torch.no_grad():
            wanted, text = encode_frames(model, there.frames), own.text(there)
        torch.testing.assert_close(here.frames, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(here.states, text["encoder_hidden_states"], rtol=1e-4, atol=1e-5)
        assert torch.equal(here.mask, text["encoder_attention_mask"])
        assert torch.equal(here.noise, there.noise) and torch.equal(here.level, there.level)
        for caption, mask in zip(here.captions, here.mask, strict=True):
            assert (caption == "") == (mask.sum() == 1)
            dropped += caption == ""
    assert 0 < dropped < 8


def test_encoders_are_not_asked_for_what_is_there(recipe, latents):
    task = task_of(recipe(latents))
    batch = task.batches[0]
    expected = task.loss(batch)
    for part in (*task.vae.parameters(), *task.text.encoder.parameters()):
        part.fill_(float("nan"))
    assert torch.equal(task.loss(batch), expected) and expected.isfinite()


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_on_latents_is_exact_to_the_bit(recipe, latents, tmp_path, workers):
    made = recipe(latents, "checkpoint.every_steps=3", f"workers={workers}")
    train(made, tmp_path / "whole")
    train(made, tmp_path / "again", tmp_path / "whole" / "checkpoints" / "step-00000003")
    assert metrics(tmp_path / "again") == metrics(tmp_path / "whole")[3:]
    one, two = weights(tmp_path / "whole", 6), weights(tmp_path / "again", 6)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_parts_of_a_batch_take_their_states_along(recipe, latents, tmp_path):
    train(recipe(latents), tmp_path / "whole")
    train(recipe(latents, "accumulate=2"), tmp_path / "parts")
    losses = [[line["loss"] for line in metrics(tmp_path / run)] for run in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_text_encoder_that_learns_reads_the_captions(recipe, files, tmp_path):
    made = recipe(files, FRESH)
    encode_stream(made, 0, spec_of(made, device="cpu"), tmp_path / "latents", Options())
    task = task_of(recipe({"latents": {"path": str(tmp_path / "latents")}}, FRESH))
    batch = task.batches[0]
    assert batch.encoded and batch.states is None and batch.mask is None
    task.loss(batch).backward()
    assert all(p.grad is not None for p in task.text.encoder.parameters())
    assert "level" in task.text.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["vae=null", "model.overrides.in_channels=3"], "has another vae or none"),
        ([FRESH], "which is fresh or learns"),
        (["text.max_length=4"], "up to 8 tokens, text.max_length is 4"),
        (["model.overrides.patch_size=[1,4,4]"], "path: height 8 is not a multiple of 16"),
    ],
)
def test_latents_of_other_encoders_or_sizes_are_refused(recipe, latents, changes, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        task_of(recipe(latents, *changes))
    assert str(caught.value).startswith("data.0.latents") and "\n" not in str(caught.value)


def test_what_is_missing_or_unfinished_is_said_in_one_line(recipe, latents, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder of latents: .*nowhere"):
        task_of(recipe({"latents": {"path": str(tmp_path / "nowhere")}}))
    folder = tmp_path / "latents"
    shutil.copytree(folder, tmp_path / "shardless")
    shard_files(tmp_path / "shardless" / "latents")[0].unlink()
    with pytest.raises(ValueError, match=r"data\.0\.latents: .*a shard is missing"):
        task_of(recipe({"latents": {"path": str(tmp_path / "shardless")}}))
    (folder / "index.jsonl").unlink()
    with pytest.raises(ValueError, match=r"data\.0\.latents: .*encode has not finished"):
        task_of(recipe(latents))
    with pytest.raises(ValueError, match="one of world, clips, files and latents"):
        recipe({**latents, "world": {}})
    with pytest.raises(ValueError, match=r"data\.0\.latents: a VAE learns from frames"):
        load_recipe("smoke_world_vae", [f"data.0={json.dumps(latents)}"])


def test_a_plan_knows_that_the_encoders_have_done_their_part(recipe, files, latents):
    counts = []
    for source in (files, latents):
        shell = recipe_shell(recipe(source))
        (load,) = shell.loads
        assert (load.name, load.size, load.tokens) == ("data.0 (image)", (1, 16, 16), 4)
        counts.append(shell.count(0, 2, checkpointing=False, cuda=False))
    on_files, on_latents = counts
    assert on_files.frozen_flops > on_latents.frozen_flops == 0
    assert on_files.trained_flops == on_latents.trained_flops

"""Encoding ahead of training: the numbers are those of training, and nothing is done twice."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from statefilm.data.files import BucketPlan, load, make_buckets, open_source
from statefilm.data.latents import LatentSamples, open_latents, shard_files, verify
from statefilm.errors import UsageError
from statefilm.models.text import encode_prompts, load_text_encoder
from statefilm.models.vae import encode_frames, encode_posterior, load_vae
from statefilm.training.latents import EncoderSpec, Options


def shards(folder):
    """The shards of a folder with their times: what is written again is seen."""
    files = sorted(folder.rglob("*.safetensors"))
    return {file: file.stat().st_mtime_ns for file in files}


def numbers(folder):
    """Name of a sample to its latents."""
    cache = open_latents(folder)
    return {(r.name, r.view): cache.latent(n) for n, r in enumerate(cache.rows)}


def test_latents_and_states_are_those_of_training(encode, tmp_path, data, vae, text):
    outcome = encode()
    assert (outcome.samples, outcome.encoded, outcome.reused, outcome.bad) == (15, 15, 0, {})
    cache = open_latents(tmp_path / "latents")
    assert verify(tmp_path / "latents").is_whole
    samples = LatentSamples(cache, BucketPlan(cache.assignment, 3, 0))
    entries = {entry.name: entry for entry in open_source(data).entries}
    model, (tokenizer, encoder) = load_vae(vae), load_text_encoder(text)
    shapes = set()
    for step in range(samples.plan.steps_per_epoch):
        batch, bucket = samples.batch(3 * step, 3), samples.bucket(step)
        shown = [
            load(data, entries[name], bucket.size, num_frames=bucket.num_frames)
            for name in batch.names
        ]
        with torch.no_grad():
            wanted = encode_frames(model, torch.stack(shown).float() / 127.5 - 1)
            states, mask = encode_prompts(tokenizer, encoder, batch.captions, 8)
        torch.testing.assert_close(batch.latents, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch.states, states, rtol=1e-4, atol=1e-5)
        assert torch.equal(batch.mask, mask)
        assert batch.captions == [(*entries[name].captions, "")[0] for name in batch.names]
        shapes.add(tuple(batch.latents.shape[2:]))
    assert shapes == {(1, 4, 4), (1, 2, 4), (3, 4, 4)}


def test_a_second_run_does_nothing(encode, tmp_path):
    encode()
    before = shards(tmp_path / "latents")
    outcome = encode()
    assert (outcome.samples, outcome.encoded, outcome.reused) == (15, 0, 15)
    assert shards(tmp_path / "latents") == before and len(before) > 4


def test_stopped_anywhere_it_goes_on(encode, tmp_path):
    encode("whole")
    total = len(shards(tmp_path / "whole"))
    for stop in range(1, total):
        folder = tmp_path / f"stopped-{stop}"

        def interrupt(done, to_do, folder=folder, stop=stop):
            if len(shards(folder)) >= stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            encode(folder, progress=interrupt)
        assert not (folder / "index.jsonl").exists()
        kept = shards(folder)
        assert len(kept) == stop
        (folder / "latents").mkdir(exist_ok=True)
        (folder / "latents" / ".torn.1.part").write_bytes(b"half a shard")
        encode(folder)
        assert kept.items() <= shards(folder).items()
        assert {path.name for path in shards(folder)} == {
            path.name for path in shards(tmp_path / "whole")
        }
        assert not list(folder.rglob("*.part"))


def test_only_what_is_new_is_encoded(encode, tmp_path, data):
    encode()
    before = numbers(tmp_path / "latents")
    Image.new("RGB", (20, 20), (1, 2, 3)).save(data / "99.png")
    Image.new("RGB", (20, 20), (7, 7, 7)).save(data / "01.png")
    (data / "02.png").rename(data / "moved.png")
    (data / "moved.txt").write_text("level 27")
    (data / "03.png").unlink()
    outcome = encode()
    assert (outcome.samples, outcome.encoded, outcome.reused) == (15, 2, 13)
    after = numbers(tmp_path / "latents")
    assert ("03.png", 0) not in after and ("99.png", 0) in after
    assert torch.equal(after["moved.png", 0], before["02.png", 0])
    assert not torch.equal(after["01.png", 0], before["01.png", 0])
    assert verify(tmp_path / "latents").unused == 4  # two pictures and their captions
    cache = open_latents(tmp_path / "latents")
    assert cache.text(["level 27"])[1].sum() == 3


def test_what_changes_the_numbers_changes_the_keys(encode, spec, tmp_path, vae):
    encode()
    other = tmp_path / "other-vae"
    model = load_vae(vae)
    model.register_to_config(scaling_factor=0.25)
    model.save_pretrained(other)
    changes = [replace(spec, vae=other), replace(spec, vae=None), replace(spec, dtype="bfloat16")]
    for changed in [*changes, replace(spec, posterior=True), replace(spec, precision="bfloat16")]:
        assert encode(encoders=changed).reused == 0
    assert encode().reused == 15
    assert encode(encoders=replace(spec, max_length=7, device="auto")).reused == 15
    assert encode(options={"fps": 7.0}).reused == 0


def test_equal_files_are_encoded_once(encode, tmp_path, data):
    (data / "copy.png").write_bytes((data / "00.png").read_bytes())
    outcome = encode()
    assert (outcome.samples, outcome.encoded) == (16, 15)
    latents = numbers(tmp_path / "latents")
    assert torch.equal(latents["copy.png", 0], latents["00.png", 0])


def test_views_show_other_parts(encode, tmp_path):
    assert encode(options={"views": 3}).samples == 45
    latents = numbers(tmp_path / "latents")
    clips = [latents["clips.npy::0", view] for view in range(3)]
    assert not torch.equal(clips[0], clips[1]) and not torch.equal(clips[1], clips[2])
    assert encode(options={"views": 2}).reused == 30


def test_stills_of_clips_are_images(encode, tmp_path, data):
    assigned = {"buckets": make_buckets(16 * 16, 8, ratios=(1, 2)), "stills": True}
    outcome = encode(encoders=EncoderSpec(dtype="float32"), assigned=assigned, options={"views": 3})
    assert (outcome.samples, outcome.bad) == (45, {})
    latents = numbers(tmp_path / "latents")
    entries = {entry.name: entry for entry in open_source(data).entries}
    for name in (f"clips.npy::{number}" for number in range(3)):
        clip = load(data, entries[name], (16, 16), num_frames=9)
        stills = [latents[name, view] for view in range(3)]
        assert {still.shape[1] for still in stills} == {1}
        assert not torch.equal(stills[0], stills[1])
        torch.testing.assert_close(stills[0][:, 0], clip[:, 0].float() / 127.5 - 1)


def test_the_spread_is_stored_when_asked_for(encode, spec, tmp_path, vae):
    encode(encoders=replace(spec, posterior=True))
    encode("mean")
    cache, mean = (open_latents(tmp_path / name) for name in ("latents", "mean"))
    generators = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    first, again, other = (cache.latent(0, generator) for generator in generators)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(cache.latent(0), mean.latent(0))
    assert torch.equal(mean.latent(0, torch.Generator()), mean.latent(0))


def test_without_a_vae_or_text_frames_and_captions_are_kept(encode, tmp_path, data):
    encode(encoders=EncoderSpec(dtype="float32"))
    cache = open_latents(tmp_path / "latents")
    samples = LatentSamples(cache, BucketPlan(cache.assignment, 2, 0))
    step = next(step for step in range(9) if samples.bucket(step).width == 16)
    batch = samples.batch(2 * step, 2)
    assert batch.latents.shape[1] == 3 and batch.states is None
    for latents, name, caption in zip(batch.latents, batch.names, batch.captions, strict=True):
        if name.endswith(".png"):
            level = int(name[:2])
            assert torch.allclose(latents[0], torch.tensor(20 * level / 127.5 - 1))
            assert caption == f"level {level}"


@pytest.mark.parametrize("kind", ["image", "wan", "magvit"])
def test_the_posterior_is_that_of_the_vae(kind, vae):
    from diffusers import AutoencoderKL, AutoencoderKLWan

    torch.manual_seed(0)
    models = {
        "image": lambda: AutoencoderKL(shift_factor=0.25, scaling_factor=2.0),
        "wan": lambda: AutoencoderKLWan(
            base_dim=8,
            z_dim=2,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.5, -0.5],
            latents_std=[2.0, 0.5],
            scale_factor_temporal=2,
            scale_factor_spatial=2,
        ),
        "magvit": lambda: load_vae(vae),
    }
    model = models[kind]().eval()
    frames = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        mean, logvar = encode_posterior(model, frames)
        torch.testing.assert_close(mean, encode_frames(model, frames))
    assert logvar.shape == mean.shape
    # Two VAEs that differ in their scale alone: spreads scale as means do.
    if kind == "magvit":
        model.register_to_config(scaling_factor=1.0)
        with torch.no_grad():
            doubled, wider = encode_posterior(model, frames)
        torch.testing.assert_close((0.5 * wider).exp() / (0.5 * logvar).exp(), doubled / mean)


def test_broken_items_are_listed_and_left_out(encode, tmp_path, data):
    file = data / "04.png"
    file.write_bytes(file.read_bytes()[:-28])
    (data / "05.png").write_bytes(b"")
    outcome = encode()
    assert set(outcome.bad) == {"04.png", "05.png"} and "truncated" in outcome.bad["04.png"]
    assert outcome.samples == 13
    listed = (tmp_path / "latents" / "quarantine.jsonl").read_text()
    assert listed.count("\n") == 2
    assert encode().bad == outcome.bad
    assert "04.png" not in {name for name, _ in numbers(tmp_path / "latents")}


def test_too_many_broken_items_stop_it(encode, tmp_path, data):
    for number in range(5):
        file = data / f"{number:02d}.png"
        file.write_bytes(file.read_bytes()[:-28])
    with pytest.raises(UsageError, match="5 of 15 items are bad"):
        encode()
    assert not (tmp_path / "latents" / "index.jsonl").exists()


def test_latents_that_are_not_finite_are_broken_items(encode, spec, tmp_path, vae):
    model = load_vae(vae)
    model.encoder.conv_in.weight.data *= 1e37
    model.save_pretrained(tmp_path / "overflows")
    with pytest.raises(UsageError, match=r"items are bad.* not finite"):
        encode(encoders=replace(spec, vae=tmp_path / "overflows"))


def test_captions_that_are_cut_are_counted(encode, spec, tmp_path, data):
    (data / "00.txt").write_text("level " * 20)
    assert encode().cut == 1
    _, mask = open_latents(tmp_path / "latents").text(["level " * 19 + "level"])
    assert mask.sum() == 8


def test_bad_input_is_one_line(encode, spec, tmp_path):
    cases = [
        ({"engine": "rey"}, "unknown engine 'rey'.*'ray'"),
        ({"workers": 0}, "workers 0"),
        ({"options": {"views": 0}}, "views 0 must be at least 1"),
        ({"encoders": replace(spec, text=tmp_path)}, "not the config of a T5 encoder"),
    ]
    for changes, words in cases:
        with pytest.raises(UsageError, match=words) as caught:
            encode(**changes)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        encode(encoders=replace(spec, vae=tmp_path))


def test_two_runs_do_not_share_a_folder(encode):
    def again(done, to_do):
        with pytest.raises(UsageError, match="another statefilm encode is at work there"):
            encode()

    encode(progress=again)


def test_a_shard_that_cannot_be_written_is_one_line(encode, tmp_path):
    folder = tmp_path / "latents"
    folder.mkdir()
    (folder / "text").touch()  # where a folder should be
    with pytest.raises(OSError, match="text"):
        encode()


def test_shards_are_about_as_large_as_asked(encode, tmp_path, spec):
    encode("small", options={"shard_size": 1})
    encode("large", options={"shard_size": 10**9})
    small, large = (
        [len(shard_files(tmp_path / name / part)) for part in ("latents", "text")]
        for name in ("small", "large")
    )
    assert small == [15, 13] and large == [3, 1]
    with pytest.raises(UsageError, match="shard_size 0"):
        Options(shard_size=0)

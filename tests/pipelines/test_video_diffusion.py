"""VideoDiffusionPipeline at toy size: ancestral sampling, long clips, given frames, bad input."""

import json
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from statefilm import HTHPipeline, TemporalSSMUNet, VideoDiffusionPipeline
from statefilm.errors import UsageError
from statefilm.models.text import build_text_encoder, build_word_tokenizer
from statefilm.pipelines.clips import frame_windows, read_frames
from statefilm.pipelines.sampling import seed_generators
from statefilm.pipelines.video_diffusion import ddpm_scheduler

CLASSES, TEXT_DIM = 3, 8
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

quiet_numpy = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def make_pipeline(kind="class", scheduler=None, mixer="hydra", class_names=None, **fields):
    """A model without conditions ("none"), of classes ("class") or that reads text ("text")."""
    torch.manual_seed(0)
    conditions = {"class": {"num_classes": CLASSES}, "text": {"text_dim": TEXT_DIM}, "none": {}}
    options = {"state_dim": 4} if mixer == "hydra" else {}
    sizes = {"dim": 8, "multipliers": (1, 2), "groups": 4, "spatial_heads": 2}
    mixers = {"temporal_mixer": mixer, "temporal_mixer_options": options}
    unet = TemporalSSMUNet(**{**sizes, **mixers, **conditions[kind], **fields})
    tokenizer = text_encoder = None
    if kind == "text":
        tokenizer = build_word_tokenizer(["two balls bounce in a green maze"])
        text_encoder = build_text_encoder(
            "world_t5", vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=4, d_ff=8, num_layers=1
        ).eval()
    pipe = VideoDiffusionPipeline(
        unet.eval(),
        scheduler or ddpm_scheduler(4),
        tokenizer,
        text_encoder,
        default_height=4,
        default_width=6,
        default_num_frames=3,
        class_names=class_names,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    """Of classes; shared, so tests must not change it."""
    return make_pipeline()


def sample(pipe, seed=7, count=1, **options):
    options = {"output_type": "latent", "generator": seed_generators(seed, count)} | options
    return pipe(**options).frames


def close(a, b, atol=1e-3):
    """As close as float32 lets two orders of the same sums be: the first step divides by 0.01."""
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


def test_the_schedule_is_the_papers():
    scheduler = ddpm_scheduler(256)
    time = torch.arange(257, dtype=torch.float64) / 256
    level = torch.cos((time + 0.008) / 1.008 * torch.pi / 2).square()
    expected = (level / level[0])[1:-1].float()
    torch.testing.assert_close(scheduler.alphas_cumprod[:-1], expected, rtol=1e-3, atol=1e-5)
    assert scheduler.config.prediction_type == "epsilon"
    assert scheduler.config.clip_sample
    assert make_pipeline("none").config.default_steps == 4


def test_a_clip_is_the_ancestral_chain_written_out(pipe):
    (made,) = sample(pipe, class_labels=1, guidance_scale=3.0)
    alpha_bars = ddpm_scheduler(4).alphas_cumprod
    (generator,) = seed_generators(7, 1)
    x = torch.randn(1, 3, 3, 4, 6, generator=generator)
    with torch.no_grad():
        for t in reversed(range(4)):
            time = torch.tensor([float(t)])
            conditional = pipe.unet(x, time, torch.tensor([1])).sample
            unconditional = pipe.unet(x, time, torch.tensor([CLASSES])).sample
            noise = unconditional + 3.0 * (conditional - unconditional)
            now, before = alpha_bars[t], alpha_bars[t - 1] if t else torch.tensor(1.0)
            clean = ((x - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)
            alpha = now / before
            x = before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - before) * x
            x = x / (1 - now)
            if t:
                spread = ((1 - before) / (1 - now) * (1 - alpha)).sqrt()
                x = x + spread * torch.randn(1, 3, 3, 4, 6, generator=generator)
    close(made, x[0])


def test_output_types_agree(pipe):
    made = {kind: sample(pipe, output_type=kind) for kind in ("pil", "np", "pt", "latent")}
    tensor = made["pt"]
    assert tensor.shape == (1, 3, 3, 4, 6)
    assert 0 <= tensor.min() < tensor.max() <= 1
    close((made["latent"] / 2 + 0.5).clamp(0, 1).transpose(1, 2), tensor)
    np.testing.assert_array_equal(made["np"], tensor.permute(0, 1, 3, 4, 2).numpy())
    pil = np.stack([np.asarray(frame) for frame in made["pil"][0]])
    np.testing.assert_array_equal(pil, (made["np"][0] * 255).round())
    (again,) = pipe(output_type="pt", generator=seed_generators(7, 1), return_dict=False)
    assert torch.equal(again, tensor)


@pytest.mark.parametrize("num_frames", [1, 2, 11])
def test_any_number_of_frames(pipe, num_frames):
    made = sample(pipe, num_frames=num_frames, height=2, width=8)
    assert made.shape == (1, 3, num_frames, 2, 8)


@quiet_numpy
@pytest.mark.parametrize("sampler", [None, "ddim", "dpm++", "unipc"])
def test_a_clip_is_the_same_alone_and_in_a_batch(pipe, sampler):
    options = {"sampler": sampler, "window": 3, "overlap": 1, "num_frames": 5}
    given = torch.rand(2, 1, 3, 4, 6)
    batch = sample(pipe, count=2, class_labels=[0, 2], frames=given, **options)
    for index, label in enumerate((0, 2)):
        alone = sample(pipe, 7 + index, class_labels=label, frames=given[index], **options)
        close(alone[0], batch[index])
    assert (batch[0, :, 1:] - batch[1, :, 1:]).abs().max() > 0.01


def test_clips_of_one_label_follow_each_other(pipe):
    made = sample(pipe, count=4, class_labels=[0, 2], num_videos_per_prompt=2)
    close(made, sample(pipe, count=4, class_labels=[0, 0, 2, 2]))
    four = sample(pipe, count=4, num_videos_per_prompt=4)
    close(four[2:], sample(pipe, 9, 2, num_videos_per_prompt=2))


def test_the_seed_decides_and_nothing_else(pipe):
    first = sample(pipe)
    torch.manual_seed(99)
    assert torch.equal(sample(pipe), first)
    assert not torch.equal(sample(pipe, seed=8), first)
    noise = torch.randn(1, 3, 3, 4, 6, generator=torch.Generator().manual_seed(7))
    given = sample(pipe, sampler="ddim", latents=noise, generator=None)
    assert torch.equal(given, sample(pipe, sampler="ddim"))


def test_labels_and_guidance(pipe):
    plain = sample(pipe, class_labels=1)
    assert torch.equal(plain, sample(pipe, class_labels=torch.tensor([1]), guidance_scale=1))
    assert not torch.allclose(plain, sample(pipe, class_labels=2))
    nothing = sample(pipe, class_labels=CLASSES)
    assert torch.equal(nothing, sample(pipe))
    close(sample(pipe, class_labels=1, guidance_scale=0.0), nothing)
    assert not torch.allclose(sample(pipe, class_labels=1, guidance_scale=4.0), plain)


def test_texts_and_guidance():
    pipe = make_pipeline("text")
    plain = sample(pipe, prompt="two balls")
    assert not torch.allclose(plain, sample(pipe, prompt="a green maze bounce"))
    close(sample(pipe, prompt="two", negative_prompt="two balls", guidance_scale=0.0), plain)
    guided = sample(pipe, prompt="two balls", guidance_scale=4.0)
    states, mask = pipe.encode_prompt("two balls")
    empty, empty_mask = pipe.encode_prompt("")
    embeds = {"prompt_embeds": states, "prompt_attention_mask": mask}
    embeds |= {"negative_prompt_embeds": empty, "negative_prompt_attention_mask": empty_mask}
    close(sample(pipe, guidance_scale=4.0, **embeds), guided)
    with pytest.raises(UsageError, match="give prompt or prompt_embeds"):
        sample(pipe)


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_cover_every_frame_and_their_shares_add_up_to_one(num_frames, window, data):
    overlap = data.draw(st.none() | st.integers(0, window - 1))
    windows = frame_windows(num_frames, window, overlap)
    total = torch.zeros(num_frames)
    for frames, share in windows:
        assert frames.stop - frames.start == len(share) == min(window, num_frames)
        total[frames] += share
    torch.testing.assert_close(total, torch.ones(num_frames))
    wanted = window // 2 if overlap is None else overlap
    assert all(a.frames.stop - b.frames.start >= wanted for a, b in pairwise(windows))


def test_windows_are_one_clip_where_frames_do_not_meet_and_bound_what_the_model_sees():
    pipe = make_pipeline("none", identity_init=True)
    seen = []
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2]))
    whole = sample(pipe, num_frames=10)
    assert set(seen) == {10}
    seen.clear()
    close(sample(pipe, num_frames=10, window=4), whole)
    assert seen == [4] * 4 * 4
    seen.clear()
    close(sample(pipe, num_frames=10, window=4, overlap=0), whole)
    assert seen == [4] * 3 * 4


def test_windows_average_their_predictions(pipe):
    whole = sample(pipe, num_frames=6)
    assert torch.equal(sample(pipe, num_frames=6, window=6), whole)
    assert torch.equal(sample(pipe, num_frames=6, window=9), whole)
    (noise,) = seed_generators(7, 1)
    x = torch.randn(1, 3, 6, 4, 6, generator=noise)
    time = torch.tensor([3.0])
    with torch.no_grad():
        first, second = (pipe.unet(x[:, :, a : a + 4], time).sample for a in (0, 2))
    seen = []
    sample(
        pipe,
        num_frames=6,
        window=4,
        overlap=2,
        callback_on_step_end=lambda *call: seen.append(call[3]["denoised"]),
        callback_on_step_end_tensor_inputs=["denoised"],
    )
    level = ddpm_scheduler(4).alphas_cumprod[3]
    shared = (2 * first[:, :, 2] + 1 * second[:, :, 0]) / 3, (first[:, :, 3] + 2 * second[:, :, 1])
    mixed = torch.stack([shared[0], shared[1] / 3], dim=2)
    prediction = torch.cat([first[:, :, :2], mixed, second[:, :, 2:]], dim=2)
    clean = (x - (1 - level).sqrt() * prediction) / level.sqrt()
    torch.testing.assert_close(seen[0], clean, rtol=1e-3, atol=1e-3 * float(clean.abs().max()))


def test_given_frames_are_kept_and_change_what_follows(pipe):
    first = sample(pipe, 3, num_frames=2, output_type="pil")[0]
    made = sample(pipe, num_frames=5, frames=first, output_type="pil")[0]
    assert [frame.tobytes() for frame in made[:2]] == [frame.tobytes() for frame in first]
    arrays = np.stack([np.asarray(frame) for frame in first]).astype(np.float32) / 255
    from_array = sample(pipe, num_frames=5, frames=arrays)
    close(from_array, sample(pipe, num_frames=5, frames=first))
    close(from_array[:, :, :2], read_frames(first, 3), atol=1e-6)
    tensor = torch.from_numpy(arrays).movedim(-1, -3)
    close(from_array, sample(pipe, num_frames=5, frames=tensor[None]))
    other = sample(pipe, num_frames=5, frames=1 - tensor)
    assert not torch.allclose(other[:, :, 2:], from_array[:, :, 2:])
    assert not torch.allclose(sample(pipe, num_frames=5)[:, :, 2:], from_array[:, :, 2:])
    two = sample(pipe, count=2, num_videos_per_prompt=2, num_frames=5, frames=tensor)
    close(two[:1], from_array)


@quiet_numpy
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "flow_euler"])
def test_given_frames_are_noised_to_the_level_of_every_step(sampler):
    flow = sampler == "flow_euler"
    pipe = make_pipeline("none", FlowMatchEulerDiscreteScheduler() if flow else ddpm_scheduler(8))
    clip, seen = torch.rand(1, 3, 4, 6), []
    options = {"frames": clip, "sampler": sampler, "num_inference_steps": 4}
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args))
    made = sample(pipe, **options)
    (noise,) = seed_generators(7, 1)
    start = torch.randn(1, 3, 3, 4, 6, generator=noise)[:, :, :1]
    clean = 2 * clip[None].transpose(1, 2) - 1
    for x, time in seen:
        if flow:
            sigma = float(time) / 1000
            alpha = 1 - sigma
        else:
            alpha = float(ddpm_scheduler(8).alphas_cumprod[int(time)]) ** 0.5
            sigma = (1 - alpha**2) ** 0.5
        close(x[:, :, :1], alpha * clean + sigma * start, atol=1e-5)
    assert len(seen) == 4
    close(made[:, :, :1], clean, atol=1e-6)


def test_grey_clips():
    pipe = make_pipeline("none", in_channels=1)
    first = sample(pipe, num_frames=2, output_type="pil")[0]
    assert first[0].mode == "L"
    made = sample(pipe, num_frames=3, frames=first, output_type="pil")[0]
    assert [frame.tobytes() for frame in made[:2]] == [frame.tobytes() for frame in first]


def test_the_callback_sees_each_step_and_may_change_it(pipe):
    seen = []

    def watch(owner, step, timestep, tensors):
        seen.append((owner, step, int(timestep), set(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else None

    wanted = ["latents", "denoised"]
    options = {"callback_on_step_end": watch, "callback_on_step_end_tensor_inputs": wanted}
    assert not sample(pipe, **options).any()
    assert seen == [(pipe, step, 3 - step, set(wanted)) for step in range(4)]


@quiet_numpy
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("steps", [3, 20])
def test_faster_samplers_take_few_steps_of_the_papers_schedule(sampler, steps):
    pipe = make_pipeline("none", ddpm_scheduler(256))
    made = sample(pipe, sampler=sampler, num_inference_steps=steps)
    assert made.isfinite().all()


def test_a_saved_pipeline_makes_the_same_clip(tmp_path):
    pipe = make_pipeline("text")
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["statefilm", "TemporalSSMUNet"]
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".json", ".safetensors"}
    loaded = VideoDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.default_num_frames == 3
    close(sample(loaded, prompt="two balls"), sample(pipe, prompt="two balls"))


def refuses(folder, message, kind=VideoDiffusionPipeline):
    with pytest.raises(UsageError, match=message) as error:
        kind.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_folders_that_do_not_fit_are_refused_in_one_line(tmp_path):
    make_pipeline("none").save_pretrained(tmp_path / "hydra")
    make_pipeline("none", mixer="bimamba2").save_pretrained(tmp_path / "bimamba2")
    refuses(tmp_path / "hydra", "cannot be loaded", HTHPipeline)
    other = (tmp_path / "bimamba2" / WEIGHTS).read_bytes()
    (tmp_path / "hydra" / WEIGHTS).write_bytes(other)
    refuses(tmp_path / "hydra", "hydra.*(cannot be loaded|tensors are missing)")
    (tmp_path / "bimamba2" / WEIGHTS).write_bytes(other[:-50])
    refuses(tmp_path / "bimamba2", "damaged or truncated")
    (tmp_path / "bimamba2" / "unet" / "x.pt").write_bytes(b"")
    refuses(tmp_path / "bimamba2", "x.pt: only safetensors")


def test_nan_is_caught_where_it_arises():
    pipe = make_pipeline("none")
    with torch.no_grad():
        pipe.unet.to_out.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 1 of 4"):
        sample(pipe)


FRAME = torch.rand(1, 3, 4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 5}, "height 5 is not a multiple of 2: the nearest valid are 4 and 6"),
        ({"width": 6.0}, "width must be a whole number, got 6.0"),
        ({"num_frames": 0}, "num_frames 0 is not positive: the nearest valid is 1"),
        ({"num_inference_steps": 0}, "num_inference_steps 0"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt 0"),
        ({"guidance_scale": -1}, "guidance_scale -1"),
        ({"guidance_scale": 2.0}, "guidance_scale 2 needs a prompt or class_labels"),
        ({"output_type": "gif"}, "'gif': choose from pil, np, pt, latent"),
        ({"window": 0}, "window 0 is not positive"),
        ({"overlap": 2}, "overlap 2 needs a window"),
        ({"window": 2, "overlap": 2}, "overlap 2 is not a whole number from 0 to 1"),
        ({"class_labels": 4}, "class label 4: valid are 0 to 2, and 3 for no class"),
        ({"class_labels": [0, -1]}, "class label -1"),
        ({"class_labels": "maze"}, "class label 'maze': valid are 0 to 2"),
        ({"class_labels": True}, "class label True"),
        ({"class_labels": []}, "class_labels is empty"),
        ({"prompt": "two balls"}, "this model reads no text"),
        ({"negative_prompt": "two balls"}, "this model reads no text"),
        ({"latents": torch.zeros(1, 3, 2, 4, 6)}, r"expected \(1, 3, 3, 4, 6\)"),
        ({"generator": seed_generators(0, 2)}, "2 generators for 1 samples"),
        ({"sampler": "flow_euler"}, "does not fit a model with epsilon"),
        ({"shift": 2.0}, "shift 2 is for flow models"),
        ({"frames": FRAME[0]}, r"shape \(3, 4, 6\) are no clips of 3 channels"),
        ({"frames": FRAME.expand(3, 3, 4, 6)}, "3 given frames leave nothing .* num_frames 3"),
        ({"frames": FRAME, "height": 6}, "frames are 4x6, the clip is 6x6"),
        ({"frames": FRAME[None].expand(2, 1, 3, 4, 6)}, "2 clips of frames for 1 prompts"),
        ({"frames": 2 * FRAME + 1}, "valid is 0 to 1"),
        ({"frames": []}, "frames hold no images"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "'noise': choose from latents"),
    ],
)
def test_bad_values_are_named_with_what_is_valid(pipe, options, message):
    with pytest.raises(UsageError, match=message) as error:
        sample(pipe, **options)
    assert "\n" not in str(error.value)


def test_labels_by_name(pipe):
    named = make_pipeline(class_names=["two balls", "a maze", "0"])
    assert torch.equal(sample(named, class_labels="a maze"), sample(pipe, class_labels=1))
    both = sample(named, count=2, class_labels=["0", "1"])
    assert torch.equal(both, sample(pipe, count=2, class_labels=[2, 1]))
    with pytest.raises(UsageError, match="unknown class label 'maze': did you mean 'a maze'"):
        sample(named, class_labels="maze")
    for names, message in ((["a"], "1 class_names for 3"), (["a", "b", "a"], "'a' is there twice")):
        with pytest.raises(UsageError, match=message):
            make_pipeline(class_names=names)
    with pytest.raises(UsageError, match="1 class_names for 0 classes"):
        make_pipeline("none", class_names=["a"])


def test_progress_counts_windows_and_steps():
    pipe, shown = make_pipeline("none"), StringIO()
    pipe.set_progress_bar_config(file=shown)
    sample(pipe, num_frames=5, window=3, overlap=1)
    assert "8/8" in shown.getvalue()


def test_compiled_blocks_make_the_same_clip(pipe):
    torch._dynamo.reset()
    compiled = make_pipeline()
    compiled.denoiser.compile_repeated_blocks(backend="eager")
    close(sample(compiled, class_labels=1), sample(pipe, class_labels=1))
    torch._dynamo.reset()


def test_a_model_without_classes_says_so():
    with pytest.raises(UsageError, match="this model has no classes: leave class_labels out"):
        sample(make_pipeline("none"), class_labels=1)

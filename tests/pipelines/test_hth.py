"""HTHPipeline at toy size: what it makes, from what, and what it refuses."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig

from statefilm import HTHPipeline, load_pipeline
from statefilm.errors import UsageError
from statefilm.pipelines.sampling import default_sampler, make_scheduler, seed_generators

from .conftest import PLAN, make_pipeline

PROMPT = "a red circle"


def sample(pipe, prompt=PROMPT, seed=7, count=1, **options):
    options = {"output_type": "pt", "generator": seed_generators(seed, count)} | options
    return pipe(prompt, **options)


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


def test_an_image_and_a_video_from_the_same_pipeline(pipe):
    image = sample(pipe, output_type="pil")
    assert [one.size for one in image.images] == [(16, 16)]
    assert image.frames[0][0] is image.images[0]
    video = sample(pipe, num_frames=5, height=8, width=24, output_type="pil")
    assert video.images is None
    assert [frame.size for frame in video.frames[0]] == [(24, 8)] * 5


def test_images_may_have_another_size_than_clips(tmp_path):
    made = make_pipeline(default_image_size=(24, 8), shift_tokens=4)
    made.save_pretrained(tmp_path)
    pipe = HTHPipeline.from_pretrained(tmp_path)
    assert sample(pipe).frames.shape[-2:] == (24, 8)
    assert sample(pipe, num_frames=5).frames.shape[-2:] == (16, 16)
    assert sample(pipe, height=8).frames.shape[-2:] == (8, 8)
    assert [pipe.default_size(count) for count in (1, 5)] == [(24, 8), (16, 16)]
    assert pipe.default_shift(1) == pipe.default_shift(1, 24, 8) != pipe.default_shift(1, 16, 16)


@pytest.mark.parametrize("num_frames", [1, 5])
def test_output_types_agree(pipe, num_frames):
    made = {t: sample(pipe, num_frames=num_frames, output_type=t) for t in ("pil", "np", "pt")}
    tensor, array = made["pt"].frames, made["np"].frames
    assert tensor.shape == (1, num_frames, 3, 16, 16)
    assert array.shape == (1, num_frames, 16, 16, 3)
    assert 0 <= tensor.min() < tensor.max() <= 1
    np.testing.assert_array_equal(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    pil = np.stack([np.asarray(frame) for frame in made["pil"].frames[0]])
    np.testing.assert_array_equal(pil, (array[0] * 255).round())
    latents = sample(pipe, num_frames=num_frames, output_type="latent").frames
    assert latents.shape == (1, 3, num_frames, 16, 16)
    close(pipe.decode(latents, "pt"), tensor)
    if num_frames == 1:
        assert torch.equal(made["pt"].images, tensor[:, 0])
        np.testing.assert_array_equal(made["np"].images, array[:, 0])


@pytest.mark.parametrize("sampler", ["flow_euler", "flow_ancestral"])
def test_a_sample_is_the_same_alone_and_in_a_batch(pipe, sampler):
    prompts = [PROMPT, "a blue square, then right", "the circle above the blue square"]
    batch = sample(pipe, prompts, count=3, sampler=sampler).images
    for index, prompt in enumerate(prompts):
        alone = sample(pipe, prompt, seed=7 + index, sampler=sampler).images[0]
        close(alone, batch[index])
    assert (batch[0] - batch[1]).abs().max() > 0.01


def test_samples_of_one_prompt_follow_each_other(pipe):
    prompts = [PROMPT, "the blue square"]
    made = sample(pipe, prompts, count=4, num_images_per_prompt=2).images
    listed = sample(pipe, [PROMPT, PROMPT, prompts[1], prompts[1]], count=4).images
    close(made, listed)


def test_one_generator_gives_its_samples_in_turn(pipe):
    generator = torch.Generator().manual_seed(3)
    together = sample(pipe, [PROMPT] * 2, generator=torch.Generator().manual_seed(3)).images
    in_turn = [sample(pipe, generator=generator).images[0] for _ in range(2)]
    close(together, torch.stack(in_turn))


def test_the_seed_decides_and_nothing_else(pipe):
    first = sample(pipe).images
    torch.manual_seed(99)
    assert torch.equal(sample(pipe).images, first)
    assert not torch.equal(sample(pipe, seed=8).images, first)


def test_calls_in_threads_do_not_meet(pipe):
    def make(steps):
        return sample(pipe, seed=steps, num_inference_steps=steps).images

    expected = [make(steps) for steps in (2, 5, 3, 4)]
    with ThreadPoolExecutor(4) as pool:
        for made, wanted in zip(pool.map(make, (2, 5, 3, 4)), expected, strict=True):
            assert torch.equal(made, wanted)


def test_guidance_is_the_formula(pipe):
    steps, scale = 3, 4.0
    states, mask = pipe.encode_prompt(PROMPT)
    empty_states, empty_mask = pipe.encode_prompt("")
    (generator,) = seed_generators(7, 1)
    x = torch.randn(3, 1, 16, 16, generator=generator)[None]
    raw = torch.linspace(1, 1 / steps, steps)
    sigmas = torch.cat([2 * raw / (1 + raw), torch.zeros(1)])  # shift 2
    with torch.no_grad():
        for now, after in pairwise(sigmas):
            time = now.expand(1) * 1000
            c = pipe.transformer(x, time, states, mask).sample
            u = pipe.transformer(x, time, empty_states, empty_mask).sample
            x = x + (after - now) * (u + scale * (c - u))
    made = sample(pipe, num_inference_steps=steps, guidance_scale=scale, output_type="latent")
    close(made.frames, x, atol=1e-4)


def test_guidance_moves_away_from_the_negative_prompt(pipe):
    plain = sample(pipe, guidance_scale=1).images
    close(sample(pipe, guidance_scale=5.0, negative_prompt=PROMPT).images, plain)
    unconditional = sample(pipe, "", guidance_scale=1).images
    close(sample(pipe, guidance_scale=0.0).images, unconditional)
    against_nothing = sample(pipe, guidance_scale=5.0).images
    close(sample(pipe, guidance_scale=5.0, negative_prompt="").images, against_nothing)
    assert (against_nothing - plain).abs().max() > 1e-3


def test_negative_prompts_of_other_lengths_and_one_each(pipe):
    prompts, negatives = [PROMPT, "the square"], ["a circle above the blue square, then a", "red"]
    together = sample(pipe, prompts, count=2, negative_prompt=negatives).images
    for index in range(2):
        one = sample(pipe, prompts[index], seed=7 + index, negative_prompt=negatives[index])
        close(one.images[0], together[index])


def test_text_states_stand_in_for_texts(pipe):
    states, mask = pipe.encode_prompt([PROMPT, "the blue square"])
    empty, empty_mask = pipe.encode_prompt("")
    made = sample(
        pipe,
        None,
        count=2,
        prompt_embeds=states,
        prompt_attention_mask=mask,
        negative_prompt_embeds=empty,
        negative_prompt_attention_mask=empty_mask,
    )
    close(made.images, sample(pipe, [PROMPT, "the blue square"], count=2).images)


def test_without_a_text_encoder_states_are_enough():
    pipe = make_pipeline()
    states, mask = pipe.encode_prompt(PROMPT)
    expected = sample(pipe, guidance_scale=1).images
    pipe.text_encoder = pipe.tokenizer = None
    embeds = {"prompt_embeds": states, "prompt_attention_mask": mask}
    close(sample(pipe, None, guidance_scale=1, **embeds).images, expected)
    with pytest.raises(UsageError, match="negative_prompt_embeds"):
        sample(pipe, None, **embeds)
    with pytest.raises(UsageError, match="no text encoder: give prompt_embeds"):
        sample(pipe)


def test_given_latents_replace_the_noise(pipe):
    noise = torch.randn(1, 3, 1, 16, 16, generator=torch.Generator().manual_seed(7))
    close(sample(pipe, generator=None, latents=noise).images, sample(pipe).images)
    with pytest.raises(UsageError, match=r"expected \(1, 3, 5, 16, 16\)"):
        sample(pipe, latents=noise, num_frames=5)


def test_the_callback_sees_each_step_and_may_change_it(pipe):
    seen = []

    def watch(owner, step, timestep, tensors):
        seen.append((owner, step, float(timestep), set(tensors)))
        last.update(tensors)

    last, wanted = {}, ["latents", "denoised", "prompt_embeds", "negative_prompt_embeds"]
    made = sample(
        pipe,
        output_type="latent",
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=wanted,
    )
    assert [(owner, step) for owner, step, _, _ in seen] == [(pipe, 0), (pipe, 1), (pipe, 2)]
    assert [names for *_, names in seen] == [set(wanted)] * 3
    assert sorted((time for _, _, time, _ in seen), reverse=True) == [
        time for _, _, time, _ in seen
    ]
    # An Euler step to sigma 0 lands on what it foresees.
    close(last["denoised"], made.frames)
    zero = sample(
        pipe,
        output_type="latent",
        callback_on_step_end=lambda *call: {"latents": torch.zeros_like(call[3]["latents"])},
    )
    assert not zero.frames.any()


def test_text_is_projected_once_a_generation_and_again_when_the_callback_replaces_it(pipe):
    calls = []
    project = pipe.transformer.blocks[0].cross_attention.to_kv
    handle = project.register_forward_hook(lambda *call: calls.append(call[1][0].shape))
    try:
        made = sample(pipe, output_type="latent")
        assert calls == [calls[0]]
        same = sample(
            pipe,
            output_type="latent",
            callback_on_step_end=lambda *call: {"prompt_embeds": call[3]["prompt_embeds"]},
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
        assert len(calls) == 1 + 4
        assert torch.equal(same.frames, made.frames)
        changed = sample(
            pipe,
            output_type="latent",
            callback_on_step_end=lambda *call: {"prompt_embeds": 0 * call[3]["prompt_embeds"]},
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
        assert not torch.equal(changed.frames, made.frames)
    finally:
        handle.remove()


def test_guidance_apart_is_guidance_together(pipe, monkeypatch):
    rows = []
    handle = pipe.transformer.register_forward_hook(lambda *call: rows.append(len(call[2].sample)))
    try:
        together = sample(pipe)
        monkeypatch.setattr("statefilm.pipelines.hth.APART_TOKENS", 1)
        apart = sample(pipe)
        unguided = sample(pipe, guidance_scale=1)
    finally:
        handle.remove()
    steps = len(rows) // 4
    one = rows[-1]
    assert rows == steps * [2 * one] + 2 * steps * [one] + steps * [one]
    close(together.images, apart.images)
    assert not torch.allclose(unguided.images, apart.images)


@pytest.mark.parametrize("apart", [False, True])
def test_step_caching_keeps_what_guidance_compares_apart(apart, monkeypatch):
    monkeypatch.setattr("statefilm.pipelines.hth.APART_TOKENS", 1 if apart else 1_000_000)
    pipe = make_pipeline(plan=PLAN[1:] * 2)
    ran = []
    pipe.transformer.blocks[-1].mixer.register_forward_hook(lambda *call: ran.append(1))
    uncached = sample(pipe).images
    forwards = len(ran)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0))
    close(sample(pipe).images, uncached)
    assert len(ran) == 2 * forwards
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    ran.clear()
    assert not torch.equal(sample(pipe).images, uncached)
    assert len(ran) == (2 if apart else 1)  # the first step's forwards


def test_tuples_for_those_who_want_them(pipe):
    (images,) = sample(pipe, return_dict=False)
    assert torch.equal(images, sample(pipe).images)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("sampler", ["flow_euler", "flow_ancestral", "dpm++", "unipc"])
def test_a_saved_model_keeps_its_sampler(sampler, tmp_path):
    plain = make_pipeline()
    plain.scheduler = make_scheduler(plain.scheduler, sampler, 1)
    plain.save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path, dtype="float32", device="cpu")
    assert default_sampler(pipe.scheduler) == sampler
    own = sample(pipe).images
    close(own, sample(make_pipeline(), sampler=sampler).images)
    close(sample(pipe, sampler="flow_euler").images, sample(make_pipeline()).images)
    if sampler != "flow_euler":
        assert not torch.allclose(own, sample(make_pipeline()).images)


def test_videos_may_have_a_shift_of_their_own():
    pipe = make_pipeline(default_video_shift=5.0)
    assert (pipe.default_shift(1), pipe.default_shift(5)) == (2.0, 5.0)
    assert make_pipeline("epsilon").default_shift(1) is None
    plain = make_pipeline()
    close(sample(pipe).images, sample(plain).images)
    close(sample(pipe, num_frames=5).frames, sample(plain, num_frames=5, shift=5.0).frames)
    assert not torch.allclose(sample(pipe, num_frames=5).frames, sample(plain, num_frames=5).frames)


def test_videos_may_have_a_guidance_scale_of_their_own():
    pipe, plain = make_pipeline(default_video_guidance_scale=5.0), make_pipeline()
    assert (pipe.default_guidance(1), pipe.default_guidance(5)) == (3.0, 5.0)
    assert plain.default_guidance(5) == 3.0
    close(sample(pipe).images, sample(plain).images)
    own = sample(pipe, num_frames=5).frames
    close(own, sample(plain, num_frames=5, guidance_scale=5.0).frames)
    assert not torch.allclose(own, sample(plain, num_frames=5).frames)


def test_the_shift_may_follow_the_number_of_tokens():
    pipe = make_pipeline(shift_tokens=16)
    time, rows, columns = pipe.size_steps
    assert pipe.default_shift(1, 4 * rows, 4 * columns) == 2.0
    assert pipe.default_shift(1, 8 * rows, 8 * columns) == 4.0
    assert pipe.default_shift(1 + 3 * time, 4 * rows, 4 * columns) == 4.0
    large = {"height": 8 * rows, "width": 8 * columns}
    same = sample(make_pipeline(), shift=4.0, **large)
    close(sample(pipe, **large).images, same.images)


def test_sizes_default_to_the_models_own():
    pipe = make_pipeline(default_height=8, default_width=24, default_steps=2)
    steps = []
    out = sample(pipe, callback_on_step_end=lambda *call: steps.append(call[1]))
    assert out.images.shape == (1, 3, 8, 24)
    assert steps == [0, 1]


@pytest.mark.parametrize("num_frames", [1, 5])
def test_latents_are_decoded_by_the_vae(num_frames):
    pipe = make_pipeline(with_vae=True)
    assert pipe.size_steps == (1, 4, 4)
    latents = sample(pipe, num_frames=num_frames, output_type="latent").frames
    assert latents.shape == (1, 4, num_frames, 8, 8)
    frames = sample(pipe, num_frames=num_frames).frames
    assert frames.shape == (1, num_frames, 3, 16, 16)
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    close(frames, (decoded.transpose(1, 2) / 2 + 0.5).clamp(0, 1))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", [None, "ddpm", "ddim", "dpm++", "unipc"])
def test_noise_models_sample_the_same_alone_and_in_a_batch(prediction, sampler):
    pipe = make_pipeline(prediction)
    batch = sample(pipe, [PROMPT, "the square"], count=2, sampler=sampler).images
    alone = sample(pipe, "the square", seed=8, sampler=sampler).images
    close(alone[0], batch[1], atol=1e-4)


def test_bfloat16_stays_near_float32(pipe):
    half = make_pipeline().to(torch.bfloat16)
    made, expected = sample(half).images, sample(pipe).images
    assert (made - expected).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 20}, "height 20 is not a multiple of 8: the nearest valid are 16 and 24"),
        ({"width": 0}, "width 0 is not a multiple of 8: the nearest valid is 8"),
        ({"width": 16.0}, "width must be a whole number, got 16.0"),
        ({"num_frames": 16}, r"num_frames 16 is not 1 \+ k \* 4: the nearest valid are 13 and 17"),
        ({"num_frames": -3}, "num_frames -3 .* the nearest valid is 1$"),
        ({"num_inference_steps": 0}, "num_inference_steps 0 .* the nearest valid is 1$"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt 0"),
        ({"guidance_scale": -1}, "guidance_scale -1"),
        ({"guidance_scale": float("nan")}, "guidance_scale nan"),
        ({"output_type": "jpeg"}, "'jpeg': choose from pil, np, pt, latent"),
        ({"prompt": None}, "give prompt or prompt_embeds"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": 7}, "must be a text or a list of texts, got 7"),
        ({"prompt": ["a", 7]}, "must be a text or a list of texts"),
        ({"prompt_embeds": torch.zeros(1, 4, 32)}, "exclude each other"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 4, 9)}, r"expected \(batch, S, 32\)"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1"),
        ({"generator": seed_generators(0, 2)}, "2 generators for 1 samples"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"sampler": "ddim"}, "choose from flow_euler, flow_ancestral, dpm"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "'noise': choose from latents"),
    ],
)
def test_bad_values_are_named_with_what_is_valid(pipe, options, message):
    with pytest.raises(UsageError, match=message) as error:
        sample(pipe, **{"prompt": PROMPT, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("component", "stage"),
    [("text_encoder", "text encoding"), ("transformer", "step 1 of 3"), ("vae", "VAE decoding")],
)
def test_nan_is_caught_where_it_arises(component, stage):
    pipe = make_pipeline(with_vae=True)
    with torch.no_grad():
        for parameter in getattr(pipe, component).parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=stage):
        sample(pipe)

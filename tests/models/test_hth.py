"""HTHTransformer: shapes, conditions, plans, presets, saving."""

import pytest
import torch
from diffusers import FirstBlockCacheConfig

from statefilm.models import (
    PRESETS,
    HTHTransformer,
    attention_plan,
    build,
    hybrid_plan,
    to_video,
)
from statefilm.models.embeddings import sinusoidal_positions
from statefilm.models.patch import merge_time, split_time
from statefilm.models.sequence import SequenceExtras

TOY = {
    "in_channels": 3,
    "patch_size": (1, 2, 2),
    "dim": 32,
    "text_dim": 12,
    "head_dim": 16,
    "plan": to_video(hybrid_plan(1, 4)),
    "mixer_options": {"hydra": {"state_dim": 8, "head_dim": 16}},
}


def toy(**changes):
    torch.manual_seed(0)
    model = HTHTransformer(**{**TOY, **changes})
    with torch.no_grad():
        for p in model.parameters():  # the zero output would hide everything before it
            p.add_(0.05 * torch.randn_like(p))
    return model


def inputs(batch=2, frames=1, height=4, width=6, channels=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, frames, height, width, generator=generator)
    text = torch.randn(batch, 5, TOY["text_dim"], generator=generator)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:batch]
    return x, torch.tensor([700.0, 30.0])[:batch], text, mask


VARIANTS = [
    {},
    {"conditioning": "adaln_single"},
    {"position": "rope"},
    {"position": "none"},
    {"position": "continuous"},
    {"patch_size": (4, 2, 2)},
    {"patch_size": (2, 4, 4), "patch_embed": "conv", "patch_width": 4},
    {"head_target": "sample"},
    {"cross_attention": "after"},
    {"registers": 3, "conditioning": "adaln_single"},
    {"text_prefix": 8, "registers": 2, "position": "rope"},
    {"text_prefix": 8, "cross_attention": "none", "conditioning": "adaln_single"},
]
PREFIX = {"text_prefix": 8, "cross_attention": "none"}
DIT = {"plan": attention_plan(3)}
BIMAMBA = {
    "plan": hybrid_plan(1, 2, mixer="bimamba2"),
    "mixer_options": {"bimamba2": {"state_dim": 8, "head_dim": 16}},
}


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("frames", [1, 5])
def test_output_has_the_shape_of_the_input_and_all_parameters_learn(changes, frames):
    model = toy(**changes)
    x, t, text, mask = inputs(frames=frames, height=8, width=12)
    y = model(x, t, text, mask).sample
    assert y.shape == x.shape
    y.square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_fresh_model_predicts_zero(changes):
    model = HTHTransformer(**{**TOY, **changes})
    x, t, text, mask = inputs(frames=5, height=8, width=12)
    y = model(x, t, text, mask).sample
    sigma = (t / 1000).view(-1, 1, 1, 1, 1)
    expected = x / sigma if changes.get("head_target") == "sample" else torch.zeros_like(x)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"conditioning": "adaln_single"},
        {"cross_attention": "after"},
        PREFIX,
        {**PREFIX, **DIT},
        {**PREFIX, "cross_attention": "before", "registers": 2},
    ],
    ids=str,
)
def test_timestep_and_text_matter_and_masked_text_does_not(changes):
    model = toy(**changes)
    x, t, text, mask = inputs()
    base = model(x, t, text, mask).sample
    assert not torch.allclose(base, model(x, t + 100, text, mask).sample)
    assert not torch.allclose(base, model(x, t, text + 1, mask).sample)
    hidden = text.clone()
    hidden[1, 3:] += 1
    torch.testing.assert_close(model(x, t, hidden, mask).sample, base)


@pytest.mark.parametrize("changes", [{}, PREFIX, {**PREFIX, **DIT}], ids=str)
def test_the_length_to_which_texts_are_padded_does_not_matter(changes):
    model = toy(**changes)
    x, t, text, mask = inputs()
    alone = model(x[1:], t[1:], text[1:, :3]).sample
    for padded in (5, 8, 11):
        longer = torch.randn(2, padded, TOY["text_dim"])
        longer[:, :5] = text
        longer_mask = torch.zeros(2, padded, dtype=torch.bool)
        longer_mask[:, :5] = mask
        found = model(x, t, longer, longer_mask).sample
        torch.testing.assert_close(found[1:], alone)


def test_text_beyond_the_slots_is_not_read():
    model = toy(text_prefix=4, cross_attention="none")
    x, t, text, _ = inputs()
    base = model(x, t, text, None).sample
    for slot, read in ((3, True), (4, False)):
        changed = text.clone()
        changed[:, slot] += 1
        assert torch.allclose(model(x, t, changed, None).sample, base) != read


@pytest.mark.parametrize("registers", [1, 2, 5])
def test_registers_stand_at_even_distances_behind_the_text(registers):
    extras = SequenceExtras(4, 12, text_slots=3, registers=registers)
    tokens = torch.arange(1.0, 14).view(1, 13, 1).expand(2, -1, 4)
    beside = -torch.arange(1.0, 4 + registers).view(1, -1, 1).expand(2, -1, 4)
    sequence = extras.join(tokens, beside)
    values = sequence[0, :, 0].tolist()
    assert values[:3] == [-1, -2, -3]
    places = [place for place, value in enumerate(values[3:]) if value < 0]
    gaps = [b - a - 1 for a, b in zip([-1, *places], [*places, 13 + registers], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert [value for value in values if value > 0] == list(range(1, 14))
    back, rest = extras.part(sequence)
    assert torch.equal(back, tokens) and torch.equal(rest, beside)


def test_more_registers_than_tokens():
    model = toy(registers=30)
    x, t, text, mask = inputs()
    assert model(x, t, text, mask).sample.shape == x.shape


def test_registers_take_part_in_the_mixing():
    model = toy(registers=2)
    args = inputs(frames=3)
    base = model(*args).sample
    with torch.no_grad():
        model.extras.registers[0] += torch.linspace(-1, 1, TOY["dim"])
    assert (model(*args).sample - base).abs().amin(dim=(0, 1, 3, 4)).gt(0).all()


def test_the_tokens_of_every_scan_stay_in_their_places():
    """With mixers that add nothing, a token is a function of its own place alone."""
    plan = [{"mixer": "hydra", "image_scan": s, "video_scan": s} for s in ("V", "TH", "spiral")]
    with_extras, without = toy(plan=plan, text_prefix=4, registers=3), toy(plan=plan)
    with torch.no_grad():
        for model in (with_extras, without):
            for block in model.blocks:
                block.mixer.out_proj.weight.zero_()
    missing = with_extras.load_state_dict(without.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"extras"}
    args = inputs(frames=3)
    torch.testing.assert_close(with_extras(*args).sample, without(*args).sample)


@pytest.mark.parametrize("changes", [{}, PREFIX, {**PREFIX, **DIT}, {"registers": 2}], ids=str)
@pytest.mark.parametrize("frames", [1, 3])
def test_text_read_once_gives_the_same(frames, changes):
    model = toy(**changes)
    x, t, text, mask = inputs(frames=frames)
    expected = model(x, t, text, mask).sample
    assert torch.equal(model(x, t, model.read_text(text), mask).sample, expected)


def test_samples_of_a_batch_do_not_meet():
    model = toy()
    x, t, text, mask = inputs(frames=3)
    both = model(x, t, text, mask).sample
    alone = model(x[1:], t[1:], text[1:], mask[1:]).sample
    torch.testing.assert_close(both[1:], alone)


def test_the_plan_changes_the_video_and_neither_the_image_nor_the_state_dict():
    image = toy(plan=hybrid_plan(1, 4))
    video = toy(plan=to_video(hybrid_plan(1, 4), 1.0))
    shapes = {k: v.shape for k, v in image.state_dict().items()}
    assert shapes == {k: v.shape for k, v in video.state_dict().items()}
    video.load_state_dict(image.state_dict())
    torch.testing.assert_close(image(*inputs()).sample, video(*inputs()).sample)
    clip = inputs(frames=3)
    assert not torch.allclose(image(*clip).sample, video(*clip).sample)


def test_video_mixes_time():
    model = toy()
    x, t, text, mask = inputs(frames=4)
    base = model(x, t, text, mask).sample
    x[:, :, 3] += 1
    assert not torch.allclose(base[:, :, 0], model(x, t, text, mask).sample[:, :, 0])


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_time_merging_keeps_every_frame(frames):
    x = torch.randn(2, frames, 3, 2, 4)
    merged = merge_time(x, 4)
    assert merged.shape == (2, 1 + (frames - 1) // 4, 3, 2, 16)
    torch.testing.assert_close(split_time(merged, 4), x)


def test_plain_patches_are_exact():
    from statefilm.models.patch import PlainPatch

    patch = PlainPatch(3, 3, (2, 4))
    frames = torch.randn(5, 3, 6, 8)
    features, skips = patch.encode(frames)
    assert features.shape == (5, 3, 2, 24)
    torch.testing.assert_close(patch.decode(features, skips, torch.zeros(5, 8)), frames)
    # A token's features are its own pixels.
    torch.testing.assert_close(features[0, 1, 1].view(3, 2, 4), frames[0, :, 2:4, 4:8])


def test_the_timestep_modulates_stem_and_head():
    from statefilm.models.patch import ConvPatch

    torch.manual_seed(0)
    patch = ConvPatch(3, 3, (4, 4), width=4, time_dim=8)
    token_out = torch.nn.Linear(1, 1)
    patch.init_output(token_out)
    torch.nn.init.normal_(patch.head.weight)
    features, skips = patch.encode(torch.randn(2, 3, 8, 8))
    time = torch.randn(1, 8).expand(2, 8) * torch.tensor([[1.0], [-1.0]])
    plain = patch.decode(features, skips, time)
    patch.modulation.weight.data.normal_()
    changed = patch.decode(features, skips, time)
    torch.testing.assert_close(plain, patch.decode(features, skips, torch.zeros(2, 8)))
    assert all(not torch.allclose(a, b) for a, b in zip(plain, changed, strict=True))
    # The scale of a skip: at -1 nothing goes past the tokens.
    patch.modulation.weight.data.zero_()
    for share in patch.modulation.bias.data.split(patch.shares):
        share.chunk(3)[0].fill_(-1)
    others = [torch.randn_like(skip) for skip in skips]
    torch.testing.assert_close(
        patch.decode(features, skips, time), patch.decode(features, others, time)
    )
    sizes = [
        sum(p.numel() for p in build("hth_tiny", patch_modulated=m).parameters()) for m in (0, 1)
    ]
    assert sizes[1] - sizes[0] == 257 * 3 * (16 + 32 + 64)


def test_a_predicted_sample_is_returned_as_its_velocity():
    model = toy(head_target="sample")
    x, t, text, mask = inputs()
    x0 = toy(head_target="velocity")(x, t, text, mask).sample
    sigma = torch.tensor([0.7, 0.03]).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(model(x, t, text, mask).sample, (x - x0) / sigma)


@pytest.mark.parametrize("changes", [{}, {**PREFIX, "registers": 2}, BIMAMBA], ids=str)
def test_gradient_checkpointing_changes_nothing(changes):
    model = toy(**changes)
    args = inputs(frames=3)
    model(*args).sample.square().mean().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.train().enable_gradient_checkpointing()
    model(*args).sample.square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, plain[name])


def test_bfloat16_stays_close():
    model = toy(conditioning="adaln_single")
    args = inputs(frames=3)
    exact = model(*args).sample
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(*args).sample - exact).abs().max() < 0.03 * exact.abs().max()
    x, t, text, mask = args
    half = model.to(torch.bfloat16)(x.bfloat16(), t, text.bfloat16(), mask).sample
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_saved_and_loaded(tmp_path):
    model = toy(patch_size=(4, 2, 2))
    model.save_pretrained(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = HTHTransformer.from_pretrained(tmp_path)
    assert loaded.config.plan == model.config.plan
    args = inputs(frames=5)
    torch.testing.assert_close(loaded(*args).sample, model(*args).sample)


def test_what_decays_stays_float32_in_a_model_loaded_in_bfloat16(tmp_path):
    model = toy(conditioning="adaln_single")
    model.save_pretrained(tmp_path)
    half = HTHTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    kept = {name for name, p in half.named_parameters() if p.dtype == torch.float32}
    assert {"blocks.0.mixer.A_log", "blocks.0.mixer.dt_bias"} <= kept
    assert half.token_in.weight.dtype == torch.bfloat16
    x, t, text, mask = inputs()
    y = half(x.bfloat16(), t, text.bfloat16(), mask).sample
    exact = model(x, t, text, mask).sample
    assert (y.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("family", ["5b", "1b", "300m", "tiny"])
def test_hth_and_dit_have_equal_parameters(family):
    with torch.device("meta"):
        hth, dit = (build(f"{kind}_{family}").num_parameters() for kind in ("hth", "dit"))
    assert abs(dit / hth - 1) < 0.01


def test_the_5b_preset_is_5b():
    with torch.device("meta"):
        model = build("hth_5b")
    assert abs(model.num_parameters() / 5.0e9 - 1) < 0.02
    assert next(model.parameters()).is_meta
    assert len(model.blocks) == 33


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("hth_6b"), "hth_6b"),
        (lambda: build("hth_tiny", widht=3), "widht"),
        (lambda: toy(conditioning="film"), "'film'"),
        (lambda: toy(cross_attention="beside"), "'beside'; valid: before, after, none"),
        (lambda: toy(cross_attention="none"), "leave the text out"),
        (lambda: toy(patch_embed="plain", patch_modulated=True), "is for patch_embed .conv., not"),
        (lambda: toy(registers=-1), "registers -1 is not a whole number >= 0"),
        (lambda: toy(dim="wide"), "dim 'wide'"),
        (lambda: toy(patch_size=(2, 2)), r"\(2, 2\)"),
        (lambda: toy(patch_size=(0, 2, 2)), "patch_size 0"),
        (lambda: toy(mixer_options={"hydraa": {}}), "did you mean 'hydra'"),
        (lambda: toy(plan=[{"mixer": "hydra", "image_scan": 1, "video_scan": "H"}]), "scan 1"),
        (lambda: toy(plan=[]), "no block"),
        (lambda: toy(plan=[{"mixer": "mamba9", "image_scan": "H", "video_scan": "H"}]), "mamba9"),
        (lambda: toy(plan=[{"mixer": "hydra", "image_scan": "Q", "video_scan": "H"}]), "'Q'"),
        (lambda: toy()(*inputs(height=5)), "5x6"),
        (lambda: toy(patch_size=(4, 2, 2))(*inputs(frames=4)), "4 frames"),
        (lambda: toy()(*inputs(channels=4)), "expected"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_presets_are_valid_configs():
    assert {name.split("_")[0] for name in PRESETS} == {"hth", "dit"}


def test_a_step_cache_skips_what_hardly_changes_and_leaves_the_rest_as_it_was():
    model = toy().requires_grad_(False)
    x, t, text, mask = inputs(frames=3)
    ran = []
    model.blocks[2].mixer.register_forward_hook(lambda *call: ran.append(1))
    expected, moved = model(x, t, text, mask).sample, model(x + 5, t, text, mask).sample
    ran.clear()
    model.enable_cache(FirstBlockCacheConfig(threshold=1e-3))
    with model.cache_context("guided"):
        first = model(x, t, text, mask).sample
        again = model(x, t, text, mask).sample
        other = model(x + 5, t, text, mask).sample
    assert len(ran) == 2
    assert torch.equal(first, expected)
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(other, moved)
    model.disable_cache()
    assert torch.equal(model(x, t, text, mask).sample, expected)


def test_a_step_cache_that_would_mix_two_orders_is_refused():
    plan = hybrid_plan(1, 3, scans=("H", "V"))
    with pytest.raises(ValueError, match="share their image_scan"):
        toy(plan=[*plan, plan[1]]).enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="unknown cache str"):
        toy().enable_cache("first_block")


def test_continuous_codes_are_of_places_and_others_of_tokens():
    def middle(side, continuous):
        grid = (2, side, side)
        codes = sinusoidal_positions(grid, 24, torch.device("cpu"), continuous=continuous)
        return codes[1, side // 2, side // 2]

    for side in (3, 7):
        assert torch.allclose(middle(side, True), middle(1, True), atol=1e-5)
        assert not torch.allclose(middle(side, False), middle(1, False), atol=0.1)
    wide = sinusoidal_positions((1, 1, 4), 24, torch.device("cpu"), continuous=True)
    assert not torch.allclose(wide[0, 0, 0], wide[0, 0, 1], atol=0.1)

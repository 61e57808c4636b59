"""TemporalSSMUNet: wiring, what mixes with what, conditions, presets, saving, bad input."""

import pytest
import torch

from statefilm.mixers import MIXERS
from statefilm.models import TemporalSSMUNet, build, temporal_parameters
from statefilm.models.unet.blocks import SpatialAttention, TemporalLayer, TextLayer

TOY = {
    "dim": 8,
    "multipliers": (1, 2),
    "groups": 4,
    "spatial_heads": 2,
    "spatial_head_dim": 4,
    "temporal_mixer": "hydra",
    "temporal_mixer_options": {"state_dim": 4},
}
TOY_OPTIONS = {
    "bimamba2": {"state_dim": 4},
    "hydra": {"state_dim": 4},
    "s4d": {"state_dim": 4, "hidden_dim": 8},
    "temporal_attention": {"heads": 2, "head_dim": 8},
    "temporal_linear_attention": {"heads": 2, "head_dim": 8},
}
TEXT_DIM, CLASSES = 6, 3


def toy(**changes):
    torch.manual_seed(0)
    return TemporalSSMUNet(**{**TOY, **changes})


def inputs(batch=2, frames=3, height=4, width=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, frames, height, width, generator=generator)
    return x, torch.tensor([200.0, 30.0])[:batch]


def conditions():
    text = torch.randn(2, 5, TEXT_DIM, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return {
        "class_labels": torch.tensor([0, 2]),
        "encoder_hidden_states": text,
        "encoder_attention_mask": mask,
    }


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_keeps_the_shape_and_all_parameters_learn(mixer):
    options = TOY_OPTIONS.get(mixer)
    fields = {"temporal_mixer": mixer, "temporal_mixer_options": options}
    model = toy(**fields, num_classes=CLASSES, text_dim=TEXT_DIM)
    x, t = inputs()
    y = model(x, t, **conditions()).sample
    assert y.shape == x.shape
    assert y.is_contiguous()
    y.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_temporal_layer_may_start_as_the_identity(mixer):
    options = TOY_OPTIONS.get(mixer, {})
    grid = torch.randn(1, 4, 2, 3, 16)
    assert torch.equal(TemporalLayer(16, mixer, options, identity_init=True)(grid, None), grid)
    assert not torch.allclose(TemporalLayer(16, mixer, options)(grid, None), grid)


def test_a_temporal_layer_takes_every_pixel_as_a_sequence_of_its_own():
    layer = TemporalLayer(16, "hydra", {"state_dim": 4})
    grid = torch.randn(2, 5, 2, 3, 16)
    out = layer(grid, None)
    for b, row, column in ((0, 0, 0), (0, 1, 2), (1, 0, 1)):
        pixel = grid[b, :, row, column][None]
        expected = pixel + layer.mixer(layer.norm(pixel))
        torch.testing.assert_close(out[b, :, row, column][None], expected)


def test_the_frames_order_reaches_plain_attention():
    layer = TemporalLayer(16, "attention", {})
    grid = torch.randn(1, 5, 1, 1, 16)
    permuted = layer(grid.roll(2, 1), None).roll(-2, 1)
    assert not torch.allclose(permuted, layer(grid, None))


@pytest.mark.parametrize("linear", [True, False])
def test_spatial_attention_is_the_formula(linear):
    layer = SpatialAttention(8, heads=1, head_dim=4, linear=linear)
    grid = torch.randn(1, 2, 2, 3, 8)
    out = layer(grid, None)
    for frame in range(2):
        x = grid[0, frame].flatten(0, 1)
        q, k, v = layer.in_proj(layer.norm(x)).chunk(3, -1)
        if linear:
            mixed = (q.softmax(1) / 2) @ (k.softmax(0).T @ v)
        else:
            mixed = (q @ k.T / 2).softmax(1) @ v
        expected = x + layer.out_proj(mixed)
        torch.testing.assert_close(out[0, frame].flatten(0, 1), expected)


def test_the_wiring_is_the_published_one():
    with torch.device("meta"):
        model = TemporalSSMUNet(dim=64, temporal_mixer="hydra", text_dim=TEXT_DIM)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, TemporalLayer)}
    assert [layer.norm.normalized_shape[0] // 64 for layer in layers.values()] == (
        [1, 1, 2, 4, 8, 8, 4, 2, 1, 1]
    )
    assert [name.split(".")[0] for name in layers] == (
        ["stem_temporal", *["down"] * 4, "middle", *["up"] * 4]
    )
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, torch.nn.Conv2d)}
    assert kernels == {(7, 7), (3, 3), (4, 4)}
    assert list(model.down[2]) == ["res_1", "res_2", "spatial", "text", "temporal"]
    assert list(model.middle) == ["res_1", "spatial", "text", "temporal", "res_2"]
    assert (model.down[2].spatial.linear, model.middle.spatial.linear) == (True, False)
    # The skip of a level joins its way up, that of the stem the last block.
    assert model.up[0].res_1.conv_1.in_channels == 2 * 8 * 64
    assert model.final.conv_1.in_channels == 2 * 64
    assert model.final.time_proj is None


def test_time_mixes_in_the_temporal_layers_only():
    model = toy(identity_init=True).requires_grad_(False)
    x, t = inputs(frames=4)
    base = model(x, t).sample
    for frame in range(4):
        alone = model(x[:, :, frame : frame + 1], t).sample
        torch.testing.assert_close(alone, base[:, :, frame : frame + 1])
    mixed = toy().requires_grad_(False)
    changed = x.clone()
    changed[:, :, 3] += 1
    assert not torch.allclose(mixed(changed, t).sample[:, :, 0], mixed(x, t).sample[:, :, 0])


def test_norms_over_frames_are_a_second_path_between_frames():
    model = toy(identity_init=True, norm_over_frames=True).requires_grad_(False)
    x, t = inputs(frames=4)
    changed = x.clone()
    changed[:, :, 3] += 1
    assert not torch.allclose(model(changed, t).sample[:, :, 0], model(x, t).sample[:, :, 0])
    one_frame = toy(identity_init=True).requires_grad_(False)
    image = inputs(frames=1)
    torch.testing.assert_close(model(*image).sample, one_frame(*image).sample)


@pytest.mark.parametrize("norm_over_frames", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_samples_of_a_batch_do_not_meet(frames, norm_over_frames):
    model = toy(norm_over_frames=norm_over_frames).requires_grad_(False)
    x, t = inputs(frames=frames)
    both = model(x, t).sample
    torch.testing.assert_close(model(x[1:], t[1:]).sample, both[1:])


def test_conditions_matter_and_masked_text_does_not():
    model = toy(num_classes=CLASSES, text_dim=TEXT_DIM).requires_grad_(False)
    x, t = inputs()
    given = conditions()
    base = model(x, t, **given).sample
    text = given["encoder_hidden_states"]
    others = [
        model(x, t + 50, **given).sample,
        model(x, t, **{**given, "class_labels": torch.tensor([1, 1])}).sample,
        model(x, t, **{**given, "encoder_hidden_states": text.flip(1)}).sample,
    ]
    assert not any(torch.allclose(base[b], other[b]) for other in others for b in range(2))
    hidden = text.clone()
    hidden[1, 3:] += 1
    again = model(x, t, **{**given, "encoder_hidden_states": hidden}).sample
    torch.testing.assert_close(again, base)
    no_class = model(x, t, **{**given, "class_labels": torch.tensor([CLASSES, CLASSES])}).sample
    torch.testing.assert_close(model(x, t, **{**given, "class_labels": None}).sample, no_class)


def test_text_is_read_after_each_spatial_attention():
    model = toy(text_dim=TEXT_DIM)
    names = [n for n, m in model.named_modules() if isinstance(m, TextLayer)]
    assert names == ["down.0.text", "down.1.text", "middle.text", "up.0.text", "up.1.text"]


def test_patches_are_squares_of_pixels_of_each_frame():
    model = toy(in_channels=3, patch_size=2, temporal_mixer="hydra").eval()
    assert model.size_step == 4
    x, time = torch.randn(2, 3, 3, 8, 4), torch.tensor([200.0, 30.0])
    seen = []
    model.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.to_out.register_forward_hook(lambda *_: seen.append(_[2]))
    with torch.no_grad():
        y = model(x, time).sample
    patches, out = seen[0].unflatten(0, (2, 3)), seen[1]
    assert torch.equal(patches[1, 2, :, 3, 1], x[1, :, 2, 6:8, 2:4].flatten())
    assert torch.equal(out[1, 2, 3, 1], y[1, :, 2, 6:8, 2:4].flatten())


def test_gradient_checkpointing_changes_nothing():
    model = toy(num_classes=CLASSES, text_dim=TEXT_DIM)
    x, t = inputs()
    model(x, t, **conditions()).sample.square().mean().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.train().enable_gradient_checkpointing()
    model(x, t, **conditions()).sample.square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_bfloat16_stays_close():
    model = toy(num_classes=CLASSES, text_dim=TEXT_DIM).requires_grad_(False)
    x, t = inputs()
    exact = model(x, t, **conditions()).sample
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x, t, **conditions()).sample
    assert (mixed - exact).abs().max() < 0.05 * exact.abs().max()
    half = model.to(torch.bfloat16)(x, t, **conditions()).sample
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


def test_saved_and_loaded(tmp_path):
    model = toy(num_classes=CLASSES)
    model.save_pretrained(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = TemporalSSMUNet.from_pretrained(tmp_path)
    fields = [name for name in model.config if not name.startswith("_")]
    assert {name: loaded.config[name] for name in fields} == {
        name: model.config[name] for name in fields
    }
    x, t = inputs()
    torch.testing.assert_close(loaded(x, t).sample, model(x, t).sample)
    half = TemporalSSMUNet.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    kept = {name for name, p in half.named_parameters() if p.dtype == torch.float32}
    assert {"stem_temporal.mixer.A_log", "class_embedding.weight"} <= kept
    assert half.stem.weight.dtype == torch.bfloat16


def test_the_model_compiles_without_a_graph_break():
    torch._dynamo.reset()
    model = toy(multipliers=(1,)).requires_grad_(False)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x, t = inputs()
    torch.testing.assert_close(compiled(x, t).sample, model(x, t).sample)
    torch._dynamo.reset()


def test_blocks_that_repeat_are_there_to_compile():
    names = {type(module).__name__ for module in toy(text_dim=TEXT_DIM).modules()}
    assert set(TemporalSSMUNet._repeated_blocks) <= names


@pytest.mark.parametrize(("preset", "dim"), [("unet_64", 64), ("unet_112", 112)])
def test_published_sizes_and_their_temporal_layers(preset, dim):
    widths = [dim * m for m in (1, 1, 2, 4, 8, 8, 4, 2, 1, 1)]
    with torch.device("meta"):
        model = build(preset, temporal_mixer="temporal_linear_attention")
        wide = build(
            preset, temporal_mixer="temporal_linear_attention", temporal_mixer_options={"heads": 14}
        )
        image = TemporalSSMUNet.from_config(model.config)
    assert next(model.parameters()).is_meta
    assert temporal_parameters(model) == sum(4 * 512 * width + width for width in widths)
    assert temporal_parameters(wide) == sum(4 * 896 * width + width for width in widths)
    assert image.config.time_dim == 32 * dim
    assert model.config.norm_over_frames


def test_the_tiny_preset_runs_and_fits_a_bundle():
    model = build("unet_tiny", temporal_mixer="bimamba2").requires_grad_(False)
    assert model.num_parameters() * 4 < 15e6
    x, t = inputs(1, 2, 8, 12)
    assert model(x, t).sample.isfinite().all()


@pytest.mark.parametrize(
    ("mixer", "dim", "head_dim"),
    [
        ("hydra", 24, 16),
        ("hydra", 112, 32),
        ("hydra", 256, 64),
        ("bimamba2", 112, 32),
        ("attention", 112, 16),
        ("linear_attention", 24, 8),
    ],
)
def test_heads_fit_any_width(mixer, dim, head_dim):
    with torch.device("meta"):
        assert TemporalLayer(dim, mixer, {}).mixer.head_dim == head_dim
        assert TemporalLayer(dim, mixer, {"head_dim": 8}).mixer.head_dim == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy(temporal_mixer="s66"), "unknown temporal mixer 's66'"),
        (lambda: toy(temporal_mixer_options={"state": 3}), "did you mean 'state_dim'"),
        (lambda: toy(temporal_mixer=None), "temporal_mixer None: valid is one of hydra"),
        (lambda: toy(temporal_mixer_options=[1]), r"temporal_mixer_options \[1\]: valid are names"),
        (lambda: toy(multipliers=3), r"multipliers 3: valid is \(1, 2, 4, 8\)"),
        (lambda: toy(dim=0), "dim 0 is not positive"),
        (lambda: toy(dim=12, groups=8), "groups 8 does not divide dim 12"),
        (lambda: toy(multipliers=()), r"multipliers \(\) is empty"),
        (lambda: toy(multipliers=(1, 0)), r"multipliers\[1\] 0 is not positive"),
        (lambda: toy(num_classes=0), "num_classes 0"),
        (lambda: toy(text_dim=1.5), "text_dim must be a whole number"),
        (lambda: toy()(*inputs(frames=0)), "num_frames 0 is not positive"),
        (lambda: toy()(*inputs(height=5)), "height 5 is not a multiple of 2"),
        (lambda: toy()(*inputs(width=0)), "width 0 is not a multiple of 2"),
        (lambda: toy(in_channels=1)(*inputs()), r"expected \(batch, 1, frames, height, width\)"),
        (lambda: toy()(*inputs(), torch.tensor([0, 1])), "the model has no classes"),
        (lambda: toy()(*inputs(), None, torch.zeros(2, 1, 6)), "reads no text: its text_dim is No"),
        (lambda: toy(text_dim=6)(*inputs()), "needs encoder_hidden_states"),
        (lambda: build("unet_46"), "did you mean 'unet_64'"),
        (lambda: build("unet_tiny", mixer="s6"), "'temporal_mixer'"),
    ],
)
def test_bad_input_is_one_line_that_names_it(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

"""Training a part of a denoiser: LoRA, frozen parameters, and weights from another model."""

import pytest
import torch
from safetensors.torch import load_file

from statefilm import HTHPipeline
from statefilm.training import load_recipe
from statefilm.training.tasks.denoiser import build_transformer
from statefilm.training.tasks.text_states import load_part

from .conftest import assert_same_run, tiny_recipe, train

LORA = "model.lora={rank: 2, targets: [mixer.in_proj, cross_attention.to_q]}"
LORA_FILE = "pytorch_lora_weights.safetensors"
OFF = ["samples.every_steps=0", "text.train=false"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run to start from."""
    folder = tmp_path_factory.mktemp("first")
    train(tiny_recipe("steps=2"), folder)
    return folder


def on(first, *changes):
    sources = [f"model={{init_from: {first}}}", f"text={{init_from: {first}}}"]
    return load_recipe("smoke_world_t2i", [*sources, *OFF, *changes])


def stored(folder):
    return load_file(folder / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")


def noise_in(pipe):
    model = pipe.transformer.eval()
    drawn = torch.Generator().manual_seed(0)
    clip = torch.randn(2, 3, 1, 32, 32, generator=drawn)
    text = torch.randn(2, 5, model.config.text_dim, generator=drawn)
    with torch.no_grad():
        return model(clip, torch.tensor([300.0, 800.0]), text).sample


def test_lora_changes_its_targets_alone_and_the_saved_model_has_them_merged(first, tmp_path):
    train(on(first, LORA, "steps=3", "optimizer.name=adamw"), tmp_path)
    before, after = stored(first), stored(tmp_path)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"blocks.0.mixer.in_proj.weight", "blocks.0.cross_attention.to_q.weight"}
    assert all(torch.linalg.matrix_rank(after[n] - before[n], rtol=1e-3) <= 2 for n in changed)

    merged = HTHPipeline.from_pretrained(tmp_path / "pipeline")
    adapted = HTHPipeline.from_pretrained(first / "pipeline")
    plain = noise_in(adapted)
    lora = str(tmp_path / "pipeline" / "lora")
    adapted.transformer.load_lora_adapter(lora, prefix=None, weight_name=LORA_FILE)
    expected = noise_in(adapted)
    assert not torch.allclose(expected, plain, atol=1e-6)
    assert torch.allclose(noise_in(merged), expected, atol=1e-5)


def test_lora_on_all_layers_of_the_blocks(first):
    model = build_transformer(on(first, "model.lora={rank: 1}").model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    linear = [
        name
        for name, module in build_transformer(on(first).model).named_modules()
        if name.startswith("blocks.") and isinstance(module, torch.nn.Linear)
    ]
    assert len(trained) == 2 * len(linear) and all("lora_" in name for name in trained)


def test_a_run_of_adapters_resumes_to_the_bit(first, tmp_path):
    recipe = on(first, LORA, "steps=4", "checkpoint.every_steps=2", "optimizer.name=adamw")
    for folder in ("whole", "broken"):
        train(recipe, tmp_path / folder)
    for file in (tmp_path / "broken").glob("checkpoints/step-00000004/*"):
        file.write_bytes(b"")
    train(recipe, tmp_path / "broken")
    assert_same_run(tmp_path / "whole", tmp_path / "broken", 4)


def test_frozen_parameters_stay(first, tmp_path):
    freeze = "model.freeze=[blocks.*.cross_attention.*, patch.*]"
    train(on(first, freeze, "steps=2"), tmp_path)
    before, after = stored(first), stored(tmp_path)
    for name in before:
        frozen = ".cross_attention." in name or name.startswith("patch.")
        assert torch.equal(before[name], after[name]) == frozen, name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.freeze=[block.0.*]", "'block.0.*' matches no parameter"),
        ("model.freeze=['*']", "leaves no parameter"),
        ("model.lora={targets: [mixer.qkv]}", "no 'mixer.qkv'; valid: .*mixer.in_proj"),
        ("model.lora={rank: 0}", "rank = 0"),
        ("model={freeze: ['*'], lora: {}, preset: hth_tiny}", "leave freeze out"),
        ("model.convert_from=runs/dit", "name one, not init_from"),
    ],
)
def test_bad_sections_are_one_line(first, change, said):
    with pytest.raises(ValueError, match=said) as caught:
        build_transformer(on(first, change).model)
    assert "\n" not in str(caught.value)


def test_a_missing_peft_is_said(first, monkeypatch):
    monkeypatch.setattr("statefilm.training.adapters.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'statefilm\[lora\]'"):
        build_transformer(on(first, LORA).model)


def test_a_preset_takes_what_it_shares_with_another_model(first, caplog):
    caplog.set_level("INFO")
    recipe = tiny_recipe(
        "model.overrides.plan=[{mixer: attention, image_scan: H, video_scan: H}]",
        f"model.convert_from={first}",
    )
    model, given = build_transformer(recipe.model), stored(first)
    for name, parameter in model.named_parameters():
        copied = name in given and torch.equal(parameter, given[name])
        assert copied == (".mixer." not in name), name
    assert "fresh stay mixer." in caplog.text


def test_own_clips_begin_with_what_the_bundled_model_does():
    model = build_transformer(load_recipe("own_clips").model)
    bundled = load_part("world-64", "transformer")
    text_dim = model.config.text_dim
    frames = torch.randn(1, 3, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    given = frames, torch.tensor([700.0]), torch.ones(1, 3, text_dim)
    with torch.no_grad():
        ours, theirs = model(*given).sample, bundled(*given).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert model.config.patch_modulated

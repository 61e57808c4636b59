"""Optimizers: who steps what, what decays, and the learning rate's course."""

from itertools import pairwise

import pytest
import torch

from statefilm.models import build
from statefilm.models.text import build_text_encoder
from statefilm.training import muon
from statefilm.training.optim import Optimizers, learning_rate_factor
from statefilm.training.recipe import Optimizer


def toy_modules():
    torch.manual_seed(0)
    transformer = build(
        "hth_tiny",
        dim=32,
        ff_dim=64,
        head_dim=16,
        text_dim=16,
        patch_width=4,
        plan=[
            {"mixer": "hydra", "image_scan": "H", "video_scan": "H"},
            {"mixer": "attention", "image_scan": "H", "video_scan": "H"},
        ],
        mixer_options={"hydra": {"state_dim": 8, "head_dim": 16}},
    )
    text_encoder = build_text_encoder(
        "world_t5", vocab_size=20, d_model=16, d_kv=8, d_ff=16, num_layers=1
    )
    modules = {"transformer": transformer, "text_encoder": text_encoder}
    return torch.nn.ModuleDict(modules)


def homes(optimizers):
    """For each parameter's name: the optimizer's class and its weight decay."""
    names = {parameter: name for name, parameter in optimizers.parameters.items()}
    return {
        names[parameter]: (type(optimizer).__name__, group["weight_decay"])
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def give_gradients(optimizers, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in optimizers.parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_muon_takes_the_matrices_inside_blocks_and_nothing_else():
    modules = toy_modules()
    found = homes(Optimizers(modules, Optimizer(name="muon", weight_decay=0.1)))
    assert set(found) == {name for name, _ in modules.named_parameters()}
    muon = {name for name, (kind, _) in found.items() if kind == "SharedMuon"}
    assert all(dict(modules.named_parameters())[name].ndim == 2 for name in muon)
    for name in ("cross_attention.to_q", "mixer.in_proj", "mixer.fc_D", "feed_forward.linear_in"):
        assert f"transformer.blocks.0.{name}.weight" in muon
    for name in (
        "transformer.token_in.weight",
        "transformer.token_out.weight",
        "transformer.blocks.0.modulation.weight",
        "transformer.blocks.0.mixer.conv1d.weight",
        "text_encoder.shared.weight",
    ):
        assert name not in muon


def test_matrices_in_batches_step_as_those_of_torch_one_by_one(monkeypatch):
    monkeypatch.setattr(muon, "TOGETHER", 3 * 12 * 8)  # so that one shape needs two batches
    torch.manual_seed(0)
    shapes = [(12, 8), (8, 12), (12, 8), (8, 8), (12, 8), (12, 8), (30, 20)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    torchs = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    options = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9}
    optimizers = [muon.SharedMuon(ours, **options), torch.optim.Muon(torchs, **options)]
    for _ in range(3):
        for mine, theirs in zip(ours, torchs, strict=True):
            mine.grad = torch.randn(mine.shape)
            theirs.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for mine, theirs in zip(ours, torchs, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_weights_of_layers_decay(name):
    modules = toy_modules()
    decays = {n: d for n, (_, d) in homes(Optimizers(modules, Optimizer(name=name))).items()}
    spared = ("bias", "A_log", "dt_bias", ".D", ".modulation.weight", "shared.weight")
    for parameter, decay in decays.items():
        if parameter.endswith(spared) or "norm" in parameter:
            assert decay == 0, parameter
    assert decays["transformer.token_in.weight"] > 0
    assert decays["transformer.blocks.0.mixer.in_proj.weight"] > 0
    assert decays["transformer.blocks.0.mixer.conv1d.weight"] > 0


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_text_encoder_learns_by_adamw_at_its_own_rate(name):
    optimizers = Optimizers(toy_modules(), Optimizer(name=name, text_lr=3e-5))
    names = {parameter: name for name, parameter in optimizers.parameters.items()}
    for optimizer in optimizers.optimizers:
        for group in optimizer.param_groups:
            of_text = {names[p].startswith("text_encoder.") for p in group["params"]}
            assert of_text == {group["base_lr"] == 3e-5}
            assert type(optimizer).__name__ == "AdamW" or of_text == {False}


def test_frozen_parameters_are_left_out():
    modules = toy_modules()
    modules["text_encoder"].requires_grad_(False)
    assert not any(
        name.startswith("text_encoder") for name in homes(Optimizers(modules, Optimizer()))
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_state_goes_on_to_the_bit(name):
    runs = []
    for interrupted in (False, True):
        optimizers = Optimizers(toy_modules(), Optimizer(name=name))
        for step in range(4):
            if interrupted and step == 2:
                weights = {n: p.detach().clone() for n, p in optimizers.parameters.items()}
                state = {n: t.clone() for n, t in optimizers.tensors().items()}
                optimizers = Optimizers(toy_modules(), Optimizer(name=name))
                for n, p in optimizers.parameters.items():
                    p.data.copy_(weights[n])
                optimizers.load(state)
            give_gradients(optimizers, step)
            optimizers.step(0.5)
        runs.append(optimizers.parameters)
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


def test_the_state_of_another_optimizer_is_refused():
    muon = Optimizers(toy_modules(), Optimizer(name="muon"))
    give_gradients(muon, 0)
    muon.step(1.0)
    with pytest.raises(ValueError, match="does not fit the recipe"):
        Optimizers(toy_modules(), Optimizer(name="adamw")).load(muon.tensors())


def test_no_step_is_taken_at_a_rate_of_zero():
    optimizers = Optimizers(toy_modules(), Optimizer(name="muon"))
    before = {n: p.detach().clone() for n, p in optimizers.parameters.items()}
    give_gradients(optimizers, 0)
    optimizers.step(0.0)
    assert all(torch.equal(before[n], p) for n, p in optimizers.parameters.items())


def test_the_rate_warms_up_and_follows_a_cosine_to_its_end():
    config = Optimizer(warmup_steps=10, final_lr_ratio=0.1)
    rates = [learning_rate_factor(config, step, step / 100) for step in range(100)]
    assert 0 < rates[0] < rates[5] < rates[9]
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert learning_rate_factor(config, 10, 0.0) == 1
    assert learning_rate_factor(config, 50, 0.5) == pytest.approx(0.55)
    assert learning_rate_factor(config, 100, 1.0) == pytest.approx(0.1)
    assert learning_rate_factor(Optimizer(schedule="constant"), 5000, 0.9) == 1

"""Noise, targets and losses: the identities that each process fulfils."""

import math

import pytest
import torch

from statefilm.pipelines import ddpm_scheduler
from statefilm.pipelines.sampling import predicted_sample
from statefilm.training.objectives import build_objective
from statefilm.training.randomness import generator_of
from statefilm.training.recipe import Objective
from statefilm.training.streams import LogitNormal, Timesteps

SHAPE = (3, 1, 4, 4)


def objective(predicts_sample=False, **fields):
    return build_objective(Objective(**fields), predicts_sample)


def draw(process, count, start=0):
    return process.draw(SHAPE, [generator_of(0, i) for i in range(start, start + count)])


def clean_batch(count=64):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", ["flow", "epsilon", "v_prediction", "sample"])
def test_a_draw_is_the_same_in_any_batch(kind):
    process = objective(type=kind)
    together, apart = draw(process, 6), draw(process, 2, start=3)
    for whole, part in zip(together, apart, strict=True):
        assert torch.equal(whole[3:5], part)
    assert together.noise.unique().numel() == together.noise.numel()


def test_flow_is_a_straight_line_and_the_velocity_its_slope():
    process, clean = objective(), clean_batch()
    noise, level, _ = draw(process, len(clean))
    zero, one = torch.zeros_like(level), torch.ones_like(level)
    assert torch.equal(process.corrupt(clean, noise, zero), clean)
    assert torch.equal(process.corrupt(clean, noise, one), noise)
    noisy, velocity = process.corrupt(clean, noise, level), process.target(clean, noise, level)
    sigma = level.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(noisy - sigma * velocity, clean)
    torch.testing.assert_close(noisy + (1 - sigma) * velocity, noise)
    torch.testing.assert_close(process.timestep(level), level * 1000)


@pytest.mark.parametrize("floor", [0.05, 0.3])
def test_an_error_of_the_sample_weighs_no_more_below_the_floor_of_sigma(floor):
    process, clean = objective(predicts_sample=True, sigma_floor=floor), clean_batch(1)
    noise, _, _ = draw(process, 1)

    def loss(sigma, error):
        level = torch.tensor([sigma])
        noisy = process.corrupt(clean, noise, level)
        returned = (noisy - clean - error) / sigma  # what head_target "sample" makes of x0 + error
        return float(process.loss(returned, process.target(clean, noise, level), level))

    assert loss(0.001, 0.0) < 1e-6
    for sigma in (0.01, 0.03, 0.05):
        assert loss(sigma, 0.1) == pytest.approx((0.1 / floor) ** 2, rel=1e-3)
    assert loss(0.5, 0.1) == pytest.approx((0.1 / 0.5) ** 2, rel=1e-3)


@pytest.mark.parametrize("steps", [256, 1000])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_sampler_reads_the_clean_sample_out_of_the_target(kind, steps):
    process, clean = objective(type=kind, train_timesteps=steps), clean_batch(8)
    noise, _, _ = draw(process, len(clean))
    scheduler = process.scheduler()
    scheduler.set_timesteps(10)
    step = 4
    level = torch.full((len(clean),), (float(scheduler.timesteps[step]) + 0.5) / steps)
    assert process.timestep(level).eq(scheduler.timesteps[step]).all()
    noisy, target = process.corrupt(clean, noise, level), process.target(clean, noise, level)
    found = predicted_sample(scheduler, target, step, noisy)
    torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-4)


def test_epsilon_on_pixels_samples_as_the_paper_does():
    config = Objective(type="epsilon", train_timesteps=256)
    scheduler = build_objective(config, clip_sample=True).scheduler()
    assert dict(scheduler.config) == dict(ddpm_scheduler(256).config)


@pytest.mark.parametrize("kind", ["flow", "epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_error_of_the_clean_sample_alike_for_every_target(kind):
    gamma = 5.0
    process = objective(type=kind, weighting="min_snr", min_snr_gamma=gamma)
    plain = objective(type=kind)
    clean, wrong = clean_batch(1), clean_batch(1) + 0.1
    noise, _, _ = draw(process, 1)
    for value in (0.1, 0.4, 0.8):
        level = torch.tensor([value])
        noisy = process.corrupt(clean, noise, level)
        signal, spread = _scales(process, level)
        # The prediction that stands for `wrong`, given the same noisy sample.
        prediction = plain.target(wrong, (noisy - signal * wrong) / spread, level)
        loss = process.loss(prediction, process.target(clean, noise, level), level)
        expected = min((signal / spread) ** 2, gamma) * 0.1**2
        assert float(loss) == pytest.approx(expected, rel=1e-3)


def _scales(process, level):
    """Factors of clean sample and noise in the noisy sample."""
    one, zero = torch.ones(1, *SHAPE), torch.zeros(1, *SHAPE)
    signal = process.corrupt(one, zero, level).mean()
    return float(signal), float(process.corrupt(zero, one, level).mean())


def test_levels_follow_the_mixture():
    timesteps = {
        "logit_normal": [{"weight": 3, "mean": 4.0, "std": 0.1}, {"mean": -4.0, "std": 0.1}],
        "uniform": 0.2,
    }
    level = draw(objective(timesteps=timesteps), 4000).level
    assert level.min() > 0 and level.max() < 1
    high, low = (level > 0.97).float().mean(), (level < 0.03).float().mean()
    assert float(high) == pytest.approx(0.8 * 0.75 + 0.2 * 0.03, abs=0.03)
    assert float(low) == pytest.approx(0.8 * 0.25 + 0.2 * 0.03, abs=0.03)


def test_a_stream_may_have_levels_of_its_own():
    process = objective(timesteps={"logit_normal": [{"mean": -4.0, "std": 0.1}]})
    generators = [generator_of(0, i) for i in range(50)]
    own = Timesteps(logit_normal=(LogitNormal(mean=4.0, std=0.1),))
    assert process.draw(SHAPE, generators).level.max() < 0.03
    assert process.draw(SHAPE, generators, own).level.min() > 0.97


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_captions_are_dropped_at_their_rate(rate):
    dropped = draw(objective(caption_dropout=rate), 2000).dropped.float().mean()
    assert float(dropped) == pytest.approx(rate, abs=0.03 if 0 < rate < 1 else 0)


def test_a_shift_moves_levels_towards_noise():
    process = objective()
    plain = draw(process, 64)
    shifted = process.draw(SHAPE, [generator_of(0, i) for i in range(64)], shift=3.0)
    torch.testing.assert_close(torch.logit(shifted.level), torch.logit(plain.level) + math.log(3))
    assert torch.equal(plain.noise, shifted.noise)


@pytest.mark.parametrize("floor", [0.0, -0.1, 1.5])
def test_a_floor_that_is_no_level_is_refused(floor):
    with pytest.raises(ValueError, match="sigma_floor"):
        objective(sigma_floor=floor)


def test_the_shift_by_tokens_is_one_of_flow():
    with pytest.raises(ValueError, match="shift_tokens is for type flow, not epsilon"):
        objective(type="epsilon", shift_tokens=64)

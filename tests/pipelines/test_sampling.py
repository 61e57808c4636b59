"""Samplers against a model that is known exactly, and the starting noise.

The data are N(0, s^2), so the best prediction at any noise level is a formula, and the ODE takes
noise x to s * x.
"""

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from statefilm.errors import UsageError
from statefilm.pipelines import ddpm_scheduler
from statefilm.pipelines.sampling import (
    SAMPLERS,
    default_sampler,
    draw_noise,
    make_scheduler,
    model_timesteps,
    predicted_sample,
    prediction_type,
    seed_generators,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPREAD = 0.3
FLOW = FlowMatchEulerDiscreteScheduler(shift=2.0)
DRAW_NOISE = ("ddpm", "flow_ancestral")


def noise_schedule(prediction):
    return DDPMScheduler(
        prediction_type=prediction, beta_schedule="squaredcos_cap_v2", clip_sample=False
    )


def integrate(base, sampler, steps, noise):
    """Sample with the exact model, which sees only what the pipeline tells it."""
    scheduler = make_scheduler(base, sampler, steps)
    kind, x = prediction_type(scheduler), noise
    generator = torch.Generator().manual_seed(1)
    for step, (time, timestep) in enumerate(
        zip(model_timesteps(scheduler), scheduler.timesteps, strict=True)
    ):
        if kind == "flow_prediction":
            sigma = time / 1000
            alpha = 1 - sigma
        else:
            alpha = base.alphas_cumprod[int(time)].sqrt()
            sigma = (1 - alpha**2).sqrt()
        clean = alpha * SPREAD**2 / ((alpha * SPREAD) ** 2 + sigma**2) * x
        noise_part = (x - alpha * clean) / sigma
        prediction = {
            "flow_prediction": noise_part - clean,
            "epsilon": noise_part,
            "v_prediction": alpha * noise_part - sigma * clean,
            "sample": clean,
        }[kind]
        torch.testing.assert_close(
            predicted_sample(scheduler, prediction, step, x), clean, atol=2e-4, rtol=1e-3
        )
        options = {"generator": generator} if sampler in DRAW_NOISE else {}
        x = scheduler.step(prediction, timestep, x, **options)[0]
    return x


@pytest.mark.parametrize("sampler", ["flow_euler", "dpm++", "unipc"])
def test_flow_samplers_follow_the_ode(sampler):
    noise = torch.linspace(-2, 2, 9)[None, None]
    errors = [
        (integrate(FLOW, sampler, steps, noise) - SPREAD * noise).abs().max()
        for steps in (10, 40, 160)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("sampler", ["flow_euler", "flow_ancestral", "dpm++", "unipc"])
def test_no_step_is_skipped_where_timesteps_repeat(sampler):
    base = FlowMatchEulerDiscreteScheduler(shift=100.0)
    scheduler = make_scheduler(base, sampler, 30)
    repeats = len(scheduler.timesteps) - len(scheduler.timesteps.unique())
    assert (repeats > 0) == (not sampler.startswith("flow_"))
    x = torch.ones(1, 1, 1)
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.ones_like(x), timestep, x)[0]
    assert scheduler.step_index == 30


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc"])
def test_noise_samplers_follow_the_ode(sampler, prediction):
    noise = torch.linspace(-2, 2, 9)[None, None]
    made = integrate(noise_schedule(prediction), sampler, 100, noise)
    torch.testing.assert_close(made, SPREAD * noise, atol=0.02, rtol=0)


@pytest.mark.parametrize("steps", [100, 129, 150, 256])
def test_ddim_goes_from_each_timestep_to_the_next(steps):
    base = DDPMScheduler.from_config(ddpm_scheduler(256).config, prediction_type="sample")
    noise = torch.linspace(-2, 2, 9)[None, None]
    made = integrate(base, "ddim", steps, noise)
    torch.testing.assert_close(made, SPREAD * noise, atol=0.02, rtol=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("levels", [256, 1000])
def test_any_number_of_steps_ends_above_the_clean_sample(sampler, levels):
    """diffusers counts one step more for some, at timestep -1, which reads as pure noise."""
    base = ddpm_scheduler(levels)
    for steps in (1, 2, 49, 98, 103, 121, 217, 256):
        scheduler = make_scheduler(base, sampler, steps)
        assert len(scheduler.timesteps) == steps
        assert scheduler.timesteps.min() >= 0
        if hasattr(scheduler, "sigmas"):
            assert len(scheduler.sigmas) == steps + 1


@pytest.mark.parametrize(
    ("sampler", "steps"), [("ddpm", 256), ("ddim", 32), ("dpm++", 20), ("unipc", 20)]
)
def test_a_small_error_of_the_noise_does_not_become_a_large_one_of_the_sample(sampler, steps):
    """The data are -1 and 1; at the first of the paper's levels hardly anything of them is left."""
    base = ddpm_scheduler(256)
    scheduler = make_scheduler(base, sampler, steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 20_000, generator=generator)
    options = {"generator": generator} if sampler == "ddpm" else {}
    for timestep in scheduler.timesteps:
        alpha = base.alphas_cumprod[int(timestep)].sqrt()
        sigma = (1 - alpha**2).sqrt()
        clean = torch.tanh(alpha * x / sigma**2)
        x = scheduler.step((x - alpha * clean) / sigma + 0.003, timestep, x, **options)[0]
    assert (x > 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert (x.abs() - 1).abs().mean() < 0.05


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "unipc"])
def test_more_steps_than_in_training_are_refused(sampler):
    with pytest.raises(UsageError, match="num_inference_steps 257 is more than the 256 that"):
        make_scheduler(ddpm_scheduler(256), sampler, 257)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc"])
def test_schedulers_of_diffusers_are_put_right(sampler):
    made = make_scheduler(ddpm_scheduler(256), sampler, 10)
    theirs = type(made).__mro__[1 if sampler == "ddim" else 2]
    assert theirs.__module__.startswith("diffusers.")
    assert default_sampler(theirs.from_config(ddpm_scheduler(256).config)) == sampler


@pytest.mark.parametrize(
    ("sampler", "base"),
    [
        ("ddpm", noise_schedule("epsilon")),
        ("ddpm", noise_schedule("v_prediction")),
        ("flow_ancestral", FLOW),
    ],
)
def test_noisy_samplers_draw_from_the_data(sampler, base):
    noise = torch.randn(1, 1, 20_000, generator=torch.Generator().manual_seed(0))
    made = integrate(base, sampler, 100, noise)
    assert made.std().item() == pytest.approx(SPREAD, rel=0.1)
    # It adds noise of its own: where a sample starts says little of where it ends.
    assert torch.corrcoef(torch.cat([made[0], noise[0]]))[0, 1] < 0.5


def test_ancestral_steps_are_those_of_ddpm():
    """A flow's levels, divided by their lengths, are those of a process that keeps the variance."""
    scheduler = make_scheduler(FLOW, "flow_ancestral", 8)
    level, lower = scheduler.sigmas[3], scheduler.sigmas[4]
    noises = torch.randn(2, 1, 200_000, generator=torch.Generator().manual_seed(0))
    clean, level_noise = torch.full_like(noises[0], 0.7), noises[1]
    scheduler.set_begin_index(3)
    x = (1 - level) * clean + level * level_noise
    generator = torch.Generator().manual_seed(1)
    options = {"generator": generator, "return_dict": False}
    (made,) = scheduler.step(level_noise - clean, scheduler.timesteps[3], x, **options)

    bar, bar_lower = ((1 - s) ** 2 / ((1 - s) ** 2 + s**2) for s in (level, lower))
    alpha = bar / bar_lower
    variance = (1 - bar_lower) / (1 - bar) * (1 - alpha)
    mean = bar_lower.sqrt() * (1 - alpha) / (1 - bar) * clean
    mean += alpha.sqrt() * (1 - bar_lower) / (1 - bar) * x * (bar.sqrt() / (1 - level))
    error = made * (bar_lower.sqrt() / (1 - lower)) - mean
    assert error.mean().item() == pytest.approx(0, abs=0.005)
    assert error.var().item() == pytest.approx(variance.item(), rel=0.02)
    assert torch.corrcoef(torch.cat([error, level_noise]))[0, 1].abs() < 0.01


@pytest.mark.parametrize("shift", [1e6, 1e7, 3e7, 1e12])
def test_ancestral_steps_between_levels_that_round_alike(shift):
    scheduler = make_scheduler(FLOW, "flow_ancestral", 30, shift=shift)
    x = torch.ones(1, 1, 1)
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.zeros_like(x), timestep, x)[0]
        assert torch.isfinite(x).all()


def test_the_last_euler_step_is_as_long_as_the_others():
    sigmas = make_scheduler(FlowMatchEulerDiscreteScheduler(), None, 4).sigmas
    torch.testing.assert_close(sigmas, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_solvers_of_a_flow_keep_its_shift(sampler):
    shifted, plain = (
        make_scheduler(FlowMatchEulerDiscreteScheduler(shift=shift), sampler, 10).sigmas[5].item()
        for shift in (4.0, 1.0)
    )
    assert shifted == pytest.approx(4 * plain / (1 + 3 * plain), abs=1e-3)


def test_a_call_has_a_scheduler_of_its_own():
    base = FlowMatchEulerDiscreteScheduler(shift=2.0)
    before = base.timesteps.clone()
    first, second = make_scheduler(base, None, 4), make_scheduler(base, None, 7)
    assert len({id(one) for one in (base, first, second)}) == 3
    assert torch.equal(base.timesteps, before)
    assert (len(first.timesteps), len(second.timesteps)) == (4, 7)
    assert first.config.shift == 2.0


@pytest.mark.parametrize("sampler", ["flow_euler", "flow_ancestral", "dpm++", "unipc"])
def test_a_call_may_have_a_shift_of_its_own(sampler):
    own = make_scheduler(FlowMatchEulerDiscreteScheduler(shift=4.0), sampler, 10).sigmas
    asked = make_scheduler(FLOW, sampler, 10, shift=4.0).sigmas
    torch.testing.assert_close(asked, own)
    again = make_scheduler(make_scheduler(FLOW, sampler, 10), sampler, 10, shift=4.0).sigmas
    torch.testing.assert_close(again, own)


def test_a_shift_that_makes_no_sense_is_refused():
    for shift in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="is not a finite number above 0"):
            make_scheduler(FLOW, None, 4, shift)
    with pytest.raises(UsageError, match="for flow models, this one predicts epsilon"):
        make_scheduler(noise_schedule("epsilon"), "ddim", 4, 2.0)


def test_back_to_euler_from_a_saved_solver():
    solver = make_scheduler(FLOW, "dpm++", 4)
    assert default_sampler(solver) == "dpm++"
    assert prediction_type(solver) == "flow_prediction"
    euler = make_scheduler(solver, "flow_euler", 4)
    torch.testing.assert_close(euler.sigmas, make_scheduler(FLOW, None, 4).sigmas)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_fits_some_model_and_says_which(name):
    fits = SAMPLERS[name].predictions
    for base in (FLOW, noise_schedule("epsilon"), noise_schedule("v_prediction")):
        kind = prediction_type(base)
        if kind in fits:
            assert len(make_scheduler(base, name, 5).timesteps) == 5
        else:
            with pytest.raises(UsageError, match=f"{kind}: choose from"):
                make_scheduler(base, name, 5)


def test_unknown_samplers_and_schedulers_are_refused():
    with pytest.raises(UsageError, match="did you mean 'unipc'"):
        make_scheduler(FLOW, "unpic", 5)
    with pytest.raises(UsageError, match="EulerDiscreteScheduler"):
        make_scheduler(EulerDiscreteScheduler(), None, 5)


def test_noise_is_drawn_sample_by_sample():
    batch = draw_noise((3, 1, 4, 4), 3, seed_generators(5, 3))
    assert batch.shape == (3, 3, 1, 4, 4)
    assert batch.dtype == torch.float32
    assert batch.device.type == "cpu"
    for index in range(3):
        alone = draw_noise((3, 1, 4, 4), 1, seed_generators(5 + index, 1))
        assert torch.equal(batch[index], alone[0])
    in_turn = draw_noise((8,), 2, torch.Generator().manual_seed(5))
    assert torch.equal(in_turn[0], draw_noise((8,), 1, seed_generators(5, 1))[0])
    assert not torch.equal(in_turn[0], in_turn[1])
    torch.manual_seed(5)
    assert torch.equal(draw_noise((8,), 2), in_turn)

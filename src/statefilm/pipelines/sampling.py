"""Samplers by name, a fresh scheduler for each call, and starting noise that knows no batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin

from statefilm.errors import UsageError, suggest
from statefilm.pipelines.schedulers import DDIM, DPMSolver, FlowAncestral, UniPC, clean_sample

__all__ = [
    "SAMPLERS",
    "default_sampler",
    "draw_noise",
    "make_scheduler",
    "model_timesteps",
    "own_shift",
    "predicted_sample",
    "prediction_type",
    "seed_generators",
]

FLOW = "flow_prediction"
NOISE_MODELS = ("epsilon", "v_prediction", "sample")


class Sampler(NamedTuple):
    """A diffusers scheduler and the predictions it can integrate."""

    scheduler: type[SchedulerMixin]
    predictions: tuple[str, ...]


SAMPLERS: dict[str, Sampler] = {
    "flow_euler": Sampler(FlowMatchEulerDiscreteScheduler, (FLOW,)),
    "flow_ancestral": Sampler(FlowAncestral, (FLOW,)),
    "dpm++": Sampler(DPMSolver, (FLOW, *NOISE_MODELS)),
    "unipc": Sampler(UniPC, (FLOW, *NOISE_MODELS)),
    "ddim": Sampler(DDIM, NOISE_MODELS),
    "ddpm": Sampler(DDPMScheduler, NOISE_MODELS),
}


def prediction_type(scheduler: SchedulerMixin) -> str:
    """What the model behind this scheduler predicts: "flow_prediction", "epsilon", ..."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FLOW
    return scheduler.config.prediction_type


def default_sampler(scheduler: SchedulerMixin) -> str:
    """The name of a pipeline's own scheduler in `SAMPLERS`."""
    exact_first = sorted(SAMPLERS, key=lambda name: type(scheduler) is not SAMPLERS[name].scheduler)
    for name in exact_first:
        if _is_of(scheduler, SAMPLERS[name].scheduler):
            return name
    raise UsageError(f"no sampler for scheduler {type(scheduler).__name__}")


def own_shift(base: SchedulerMixin) -> float | None:
    """The timestep shift of a flow model's scheduler; None of other models."""
    if prediction_type(base) != FLOW:
        return None
    return float(base.config.get("shift", base.config.get("flow_shift", 1.0)))


def make_scheduler(
    base: SchedulerMixin, sampler: str | None, num_steps: int, shift: float | None = None
) -> SchedulerMixin:
    """A scheduler of its own for one call, with its timesteps set.

    Args:
        base: the pipeline's scheduler; it says what the model predicts and on which noise
            schedule, and is not touched.
        sampler: a name in `SAMPLERS`; None is that of `base`.
        num_steps: steps from noise to sample.
        shift: above 1 spends more of the steps at high noise (arXiv 2403.03206, equation 23); None
            is that of `base`.

    Raises:
        UsageError: unknown sampler, one that cannot integrate what the model predicts, more steps
            than it was trained with, or a shift that is not positive or not for this model.
    """
    if sampler is None:
        sampler = default_sampler(base)
    if sampler not in SAMPLERS:
        raise suggest(sampler, SAMPLERS, "sampler")
    kind = prediction_type(base)
    scheduler_class, predictions = SAMPLERS[sampler]
    if kind not in predictions:
        valid = [name for name, other in SAMPLERS.items() if kind in other.predictions]
        raise UsageError(
            f"sampler {sampler!r} does not fit a model with {kind}: choose from {', '.join(valid)}"
        )
    trained = base.config.num_train_timesteps
    if kind != FLOW and num_steps > trained:
        raise UsageError(
            f"num_inference_steps {num_steps} is more than the {trained} that the model was "
            "trained with"
        )
    if shift is None:
        shift = own_shift(base)
    elif kind != FLOW:
        raise UsageError(f"shift {shift:g} is for flow models, this one predicts {kind}")
    elif not 0 < shift < math.inf:
        raise UsageError(f"shift {shift:g} is not a finite number above 0")
    fields = {} if shift is None else _flow_fields(scheduler_class, shift)
    if kind != FLOW or _is_of(base, scheduler_class):
        scheduler = scheduler_class.from_config(base.config, **fields)
    else:
        scheduler = scheduler_class(num_train_timesteps=trained, **fields)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # Explicit, because the default spends its last step between sigma 0.001 and 0.
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps))
    else:
        scheduler.set_timesteps(num_steps)
        _cut(scheduler, num_steps)
    if hasattr(scheduler, "set_begin_index"):
        # Rounded timesteps may repeat, so that looking the first one up would skip a step.
        scheduler.set_begin_index(0)
    return scheduler


def _cut(scheduler: SchedulerMixin, num_steps: int) -> None:
    """Take away the step below the last level that diffusers counts in for some numbers of steps.

    It goes down by fractions of a level, whose rounding may leave it just above zero after the
    last one: there timestep -1 would follow, which reads as the noisiest level.
    """
    scheduler.timesteps = scheduler.timesteps[:num_steps]
    scheduler.num_inference_steps = num_steps
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:num_steps], scheduler.sigmas[-1:]])


def model_timesteps(scheduler: SchedulerMixin) -> torch.Tensor:
    """The times [steps] that the model is told, on [0, 1000): for a flow exactly 1000 sigma."""
    if prediction_type(scheduler) == FLOW:
        return scheduler.sigmas[: len(scheduler.timesteps)].float() * 1000
    return scheduler.timesteps.float()


def predicted_sample(
    scheduler: SchedulerMixin, prediction: torch.Tensor, step: int, latents: torch.Tensor
) -> torch.Tensor:
    """The clean latents that a prediction at `latents`, before step `step`, implies."""
    kind = prediction_type(scheduler)
    if kind == FLOW:
        return latents - scheduler.sigmas[step].to(latents) * prediction
    alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps[step].long().cpu()].to(latents)
    return clean_sample(kind, prediction, latents, alpha_bar)


def seed_generators(seed: int, count: int) -> list[torch.Generator]:
    """One CPU generator a sample: sample i has seed + i, however the samples are batched."""
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def draw_noise(
    shape: Sequence[int],
    count: int,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> torch.Tensor:
    """Standard normal noise [count, *shape], float32 on the CPU, drawn sample by sample.

    Args:
        generator: one a sample, so that a sample does not depend on its batch; or a single one,
            from which the samples are drawn in turn; or None for torch's global one.

    Raises:
        UsageError: a list of another length than `count`.
    """
    generators: Sequence[torch.Generator | None]
    if generator is None or isinstance(generator, torch.Generator):
        generators = [generator] * count
    else:
        generators = generator
    if len(generators) != count:
        raise UsageError(f"{len(generators)} generators for {count} samples: give one each")
    samples = [
        torch.randn(tuple(shape), generator=one, device="cpu" if one is None else one.device)
        for one in generators
    ]
    return torch.stack([sample.cpu() for sample in samples])


def _is_of(scheduler: SchedulerMixin, kind: type[SchedulerMixin]) -> bool:
    """Whether a scheduler is of a kind, or of the class of diffusers that the kind puts right."""
    return isinstance(scheduler, kind) or issubclass(kind, type(scheduler))


def _flow_fields(kind: type[SchedulerMixin], shift: float) -> dict[str, Any]:
    """How the multistep solvers are told that the model predicts a flow."""
    if issubclass(kind, FlowMatchEulerDiscreteScheduler):
        return {"shift": shift}
    return {"prediction_type": FLOW, "use_flow_sigmas": True, "flow_shift": shift}

"""Schedulers of diffusers, put right where they miss what this package's models were trained on."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteSchedulerOutput,
)
from diffusers.utils.torch_utils import randn_tensor

__all__ = ["DDIM", "DPMSolver", "FlowAncestral", "UniPC", "clean_sample", "clip"]


def clip(scheduler: Any, clean: torch.Tensor) -> torch.Tensor:
    """Foreseen clean samples within the range of the data, where the schedule's config says so."""
    if not scheduler.config.get("clip_sample"):
        return clean
    most = scheduler.config.get("clip_sample_range", 1.0)
    return clean.clamp(-most, most)


def clean_sample(
    kind: str, prediction: torch.Tensor, sample: torch.Tensor, alpha_bar: torch.Tensor
) -> torch.Tensor:
    """What a prediction says of the clean sample, in a process that keeps the variance.

    Args:
        kind: of the prediction: "epsilon", "v_prediction" or "sample".
        alpha_bar: the signal's part of the variance.
    """
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if kind == "sample":
        return prediction
    if kind == "epsilon":
        return (sample - noise * prediction) / signal
    return signal * sample - noise * prediction


class DDIM(DDIMScheduler):
    """DDIM without noise (arXiv 2010.02502, equation 12), from each timestep to the next one.

    That of diffusers goes down by a fixed number of levels instead, and so misses the levels that
    the model is told of wherever the number of steps does not divide that of training.
    """

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        place = int((self.timesteps == timestep).nonzero()[0])
        after = self.timesteps[place + 1 : place + 2].tolist()
        level = self.alphas_cumprod[int(timestep)].to(sample)
        lower = (self.alphas_cumprod[after[0]] if after else self.final_alpha_cumprod).to(sample)
        clean = clean_sample(self.config.prediction_type, model_output, sample, level)
        clean = clip(self, clean)
        towards = (sample - level.sqrt() * clean) / (1 - level).sqrt()
        made = lower.sqrt() * clean + (1 - lower).sqrt() * towards
        if not return_dict:
            return made, clean
        return DDIMSchedulerOutput(prev_sample=made, pred_original_sample=clean)


class FlowAncestral(FlowMatchEulerDiscreteScheduler):
    """DDPM's sampling for a flow, whose level s is x_s = (1 - s) x_0 + s n.

    Each step draws from the posterior of its lower level, given the level above and the clean
    sample that the model foresees (arXiv 2006.11239, equation 7, which is DDIM's at an eta of 1,
    arXiv 2010.02502, equation 16): of the noise that the model finds, as large a part goes on as
    the ratio of the two levels' noise-to-signal; the rest is drawn afresh. Later steps can so put
    right what early ones got wrong.
    """

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[torch.Tensor]:
        if self.step_index is None:
            self._init_step_index(timestep)
        level, lower = self.sigmas[self.step_index], self.sigmas[self.step_index + 1]
        sample, velocity = sample.float(), model_output.float()
        clean = sample - level * velocity
        noise = sample + (1 - level) * velocity
        # A shift may be so large that both levels round to the same, or to pure noise.
        kept = lower * (1 - level) / (level * (1 - lower).clamp_min(1e-12))
        fresh = randn_tensor(
            sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
        )
        noise = kept * noise + (1 - kept.square()).clamp_min(0).sqrt() * fresh
        made = ((1 - lower) * clean + lower * noise).to(model_output.dtype)
        self._step_index += 1
        if not return_dict:
            return (made,)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=made)


class _Clipped:
    """Clips what a solver of the clean sample foresees, as DDPM and DDIM do.

    Where a schedule ends in hardly any signal, an error of the predicted noise is thousands of
    times as large in the clean sample.
    """

    def convert_model_output(self, *args: Any, **options: Any) -> torch.Tensor:
        return clip(self, super().convert_model_output(*args, **options))  # type: ignore[misc]


class DPMSolver(_Clipped, DPMSolverMultistepScheduler):
    """DPM-Solver++ (arXiv 2211.01095)."""


class UniPC(_Clipped, UniPCMultistepScheduler):
    """UniPC (arXiv 2302.04867)."""

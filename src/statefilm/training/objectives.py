"""Noise, interpolation, target and loss of the denoisers: each is written here and only here.

Legend: B batch, C channels, T, H, W frames and latent pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

from statefilm.training import recipe as recipes
from statefilm.training.streams import Timesteps

__all__ = ["DiffusionObjective", "Draw", "FlowObjective", "Objective", "build_objective"]

FLOW_TIMESTEPS = 1000


class Draw(NamedTuple):
    """The random part of a batch: noise [B, C, T, H, W], level [B] in (0, 1), dropped [B] bool."""

    noise: Tensor
    level: Tensor
    dropped: Tensor


class Objective(ABC):
    """A diffusion process: how samples are made noisy and what the denoiser has to predict."""

    def __init__(self, config: recipes.Objective) -> None:
        self.config = config

    def draw(
        self,
        shape: tuple[int, ...],
        generators: list[torch.Generator],
        timesteps: Timesteps | None = None,
        shift: float = 1.0,
    ) -> Draw:
        """Noise, level and caption dropout, sample by sample.

        Args:
            shape: of one sample, (C, T, H, W).
            generators: one a sample, so that a sample is the same in any batch.
            timesteps: how noise levels are drawn; None is as the objective's section says.
            shift: above 1 moves them towards noise (arXiv 2403.03206, equation 23).
        """
        times = timesteps or self.config.timesteps
        rows = [self._draw_one(shape, generator, times) for generator in generators]
        noise, level, dropped = (torch.stack(column) for column in zip(*rows, strict=True))
        return Draw(noise, shift * level / (1 + (shift - 1) * level), dropped)

    def _draw_one(
        self, shape: tuple[int, ...], generator: torch.Generator, times: Timesteps
    ) -> tuple[Tensor, Tensor, Tensor]:
        uniform, dropout, component, position = torch.rand(4, generator=generator).unbind()
        normal = torch.randn((), generator=generator)
        noise = torch.randn(shape, generator=generator)
        level = position
        if uniform >= times.uniform:
            total = sum(part.weight for part in times.logit_normal)
            left = float(component) * total
            for part in times.logit_normal:
                left -= part.weight
                if left < 0:
                    break
            level = torch.sigmoid(part.mean + part.std * normal)
        return noise, level, dropout < self.config.caption_dropout

    @abstractmethod
    def timestep(self, level: Tensor) -> Tensor:
        """What the denoiser is told, [B] in 0 to the process's number of steps."""

    @abstractmethod
    def corrupt(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The noisy samples, of the shape of `clean` [B, C, T, H, W]."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the denoiser has to return for the noisy samples."""

    @abstractmethod
    def scheduler(self) -> SchedulerMixin:
        """The scheduler that samples from a model trained so."""

    @abstractmethod
    def _min_snr(self, level: Tensor) -> Tensor:
        """Weights [B] of min-SNR-gamma (arXiv 2303.09556) for this target."""

    def loss(self, prediction: Tensor, target: Tensor, level: Tensor) -> Tensor:
        """Weighted mean squared error in float32, a scalar."""
        return (self.errors(prediction, target) * self.weights(level)).mean()

    def errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of each sample in float32, [B]."""
        return (prediction.float() - target.float()).square().flatten(1).mean(1)

    def weights(self, level: Tensor) -> Tensor:
        """Weights [B] of the squared errors at noise levels [B]."""
        if self.config.weighting == "min_snr":
            return self._min_snr(level)
        return torch.ones_like(level)


class FlowObjective(Objective):
    """Rectified flow (arXiv 2209.03003): x = (1 - s) x0 + s eps, and the velocity is eps - x0.

    Args:
        config: the recipe's section.
        predicts_sample: whether the model's head predicts x0. An error of x0 is then an error of
            the velocity 1 / s times as large, so its weight falls below the section's
            `sigma_floor`, as if the division stopped there (arXiv 2511.13720, section 4).
    """

    def __init__(self, config: recipes.Objective, predicts_sample: bool = False) -> None:
        super().__init__(config)
        self.predicts_sample = predicts_sample

    def timestep(self, level: Tensor) -> Tensor:
        return level * FLOW_TIMESTEPS

    def corrupt(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        sigma = _like(level, clean)
        return (1 - sigma) * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return noise - clean

    def weights(self, level: Tensor) -> Tensor:
        weights = super().weights(level)
        if self.predicts_sample:
            weights = weights * (level / level.clamp_min(self.config.sigma_floor)).square()
        return weights

    def scheduler(self) -> SchedulerMixin:
        return FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=FLOW_TIMESTEPS, shift=self.config.shift
        )

    def _min_snr(self, level: Tensor) -> Tensor:
        snr = ((1 - level) / level).square()
        return snr.clamp_max(self.config.min_snr_gamma) * level.square()


class DiffusionObjective(Objective):
    """Variance-preserving diffusion on a discrete schedule (arXiv 2006.11239).

    The denoiser predicts the noise (epsilon), v (arXiv 2202.00512) or the clean sample, which a
    model narrower than its patches finds the easier one (arXiv 2511.13720).

    Args:
        config: the recipe's section.
        clip_sample: whether each step of the sampler keeps the clean sample that it foresees in
            [-1, 1], where pixels are.
    """

    def __init__(self, config: recipes.Objective, clip_sample: bool = False) -> None:
        super().__init__(config)
        self.clip_sample = clip_sample
        self._schedule = self.scheduler()

    def timestep(self, level: Tensor) -> Tensor:
        steps = self.config.train_timesteps
        return (level * steps).long().clamp(0, steps - 1)

    def corrupt(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return self._schedule.add_noise(clean, noise, self.timestep(level))

    def target(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        if self.config.type == "epsilon":
            return noise
        if self.config.type == "sample":
            return clean
        return self._schedule.get_velocity(clean, noise, self.timestep(level))

    def scheduler(self) -> SchedulerMixin:
        return DDPMScheduler(
            num_train_timesteps=self.config.train_timesteps,
            beta_schedule=self.config.beta_schedule,
            prediction_type=self.config.type,
            clip_sample=self.clip_sample,
            timestep_spacing="trailing",
        )

    def _min_snr(self, level: Tensor) -> Tensor:
        alpha_bar = self._schedule.alphas_cumprod.to(level.device)[self.timestep(level)]
        snr = alpha_bar / (1 - alpha_bar)
        share = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[self.config.type]
        return snr.clamp_max(self.config.min_snr_gamma) / share


def build_objective(
    config: recipes.Objective, predicts_sample: bool = False, clip_sample: bool = False
) -> Objective:
    """The objective that a recipe names; the flags are those of the two classes."""
    if config.type == "flow":
        return FlowObjective(config, predicts_sample)
    return DiffusionObjective(config, clip_sample)


def _like(level: Tensor, sample: Tensor) -> Tensor:
    """[B] to [B, 1, 1, ...]."""
    return level.view(-1, *[1] * (sample.dim() - 1))

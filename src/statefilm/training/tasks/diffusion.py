"""What the tasks of all diffusion models share: loss, errors, saving, samples, and text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ModelMixin
from PIL.Image import Image
from torch import Tensor

from statefilm.errors import UsageError
from statefilm.models.vae import encode_frames
from statefilm.pipelines import HTHPipeline, VideoDiffusionPipeline
from statefilm.pipelines.loading import can_compile
from statefilm.pipelines.media import make_grid, save_mp4, save_png
from statefilm.training.batches import Batch
from statefilm.training.objectives import Draw, Objective
from statefilm.training.recipe import Samples
from statefilm.training.sources import Size
from statefilm.training.streams import Stream, Timesteps
from statefilm.training.tasks.task import Task
from statefilm.training.tasks.text_states import TextStates, without_bars

__all__ = ["DiffusionDraw", "DiffusionTask"]

# Distinct mixers, lengths and widths are distinct graphs of the one block class.
COMPILED_GRAPHS = 64


class DiffusionTask(Task):
    """A denoiser learns to predict what an objective asks of noisy samples.

    Attributes:
        denoiser: called as denoiser(noisy, timestep, **conditions).
        text: its captions' encoder, where it reads text; learns along if it is in `modules`.
        vae: between frames and latents; None for pixels.
        objective: how samples become noisy and what is to be predicted.
        pipeline: of the modules as they are now; what a run saves.
    """

    output = "pipeline"
    device: torch.device
    denoiser: ModelMixin
    text: TextStates | None
    vae: ModelMixin | None = None
    objective: Objective
    pipeline: HTHPipeline | VideoDiffusionPipeline

    @property
    def vocabulary(self) -> Sequence[str] | None:  # type: ignore[override]
        return None if self.text is None else self.text.vocabulary

    def loss(self, batch: Batch) -> Tensor:
        prediction, target = self._predict(batch)
        return self.objective.loss(prediction, target, batch.level)

    @torch.no_grad()
    def errors(self, batch: Batch) -> Tensor:
        """Mean squared error [B] of what is predicted for each sample, unweighted."""
        return self.objective.errors(*self._predict(batch))

    def compile(self) -> None:
        if not can_compile(self.device):
            raise UsageError(
                "compile: blocks needs a C++ compiler on a CPU, found none: compile=none trains "
                "without"
            )
        torch._dynamo.config.recompile_limit = COMPILED_GRAPHS
        kinds = self.denoiser._repeated_blocks
        for module in self.denoiser.modules():
            if type(module).__name__ in kinds:
                module.compile(dynamic=False)
        if self.text is not None:
            self.text.pad_alike()

    def save(self, folder: Path) -> None:
        with without_bars():
            self.pipeline.save_pretrained(folder)

    def sample(self, folder: Path, step: int) -> None:
        clips = self._clips()
        if not clips:
            return
        grids = [make_grid(moment) for moment in zip(*clips, strict=True)]
        if len(grids) == 1:
            save_png(grids[0], folder / f"step-{step:08d}.png", force=True)
        else:
            fps = self.pipeline.config.default_fps
            save_mp4(grids, folder / f"step-{step:08d}.mp4", fps, force=True)

    @abstractmethod
    def _clips(self) -> Sequence[Sequence[Image]]:
        """Clips of one length, one frame for images, as the recipe's `samples` wants them."""

    def _prompts(self, wanted: Samples) -> list[str]:
        """The prompts of the samples: those that are wanted, or captions of a user's data."""
        if wanted.prompts:
            return list(wanted.prompts)
        captions = list(dict.fromkeys(c for one in self.batches.sources for c in one.captions))
        return captions[:: max(1, len(captions) // wanted.count)][: wanted.count]

    def _conditions(self, batch: Batch) -> dict[str, Tensor]:
        """What the denoiser is given beside noisy samples and time."""
        return {} if self.text is None else self.text(batch)

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The prediction for a batch, and its target."""
        conditions = self._conditions(batch)
        with torch.no_grad():
            clean = batch.frames if batch.encoded else encode_frames(self.vae, batch.frames)
            noisy = self.objective.corrupt(clean, batch.noise, batch.level)
            target = self.objective.target(clean, batch.noise, batch.level)
        time = self.objective.timestep(batch.level)
        return self.denoiser(noisy, time, **conditions).sample, target


@dataclass(frozen=True)
class DiffusionDraw:
    """`DrawNoise` of a diffusion model: latents of the frames' size, noise levels of the stream."""

    objective: Objective
    shapes: Mapping[Size, tuple[int, ...]]
    shifts: Mapping[Size, float]
    timesteps: tuple[Timesteps | None, ...]

    @classmethod
    def of(
        cls,
        objective: Objective,
        shapes: Mapping[Size, tuple[int, ...]],
        streams: Sequence[Stream],
        shifts: Mapping[Size, float] | None = None,
    ) -> DiffusionDraw:
        """The draw for some streams.

        Args:
            shapes: (C, t, h, w) for each size of frames.
            shifts: of the noise levels for each size of frames; None is 1.
        """
        return cls(objective, shapes, shifts or {}, tuple(stream.timesteps for stream in streams))

    def __call__(self, number: int, size: Size, generators: list[torch.Generator]) -> Draw:
        times, shift = self.timesteps[number], self.shifts.get(size, 1.0)
        return self.objective.draw(self.shapes[size], generators, times, shift)

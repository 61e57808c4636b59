"""What a run trains: a denoiser, a video U-Net or a VAE. The loop is the same for all."""

from pathlib import Path

import torch

from statefilm.errors import UsageError
from statefilm.training.parallel import Ranks
from statefilm.training.recipe import DenoiserRecipe, Recipe, UNetRecipe, VAERecipe
from statefilm.training.tasks.denoiser import DenoiserTask
from statefilm.training.tasks.diffusion import DiffusionTask
from statefilm.training.tasks.task import Task
from statefilm.training.tasks.unet import UNetTask
from statefilm.training.tasks.vae import VAETask

__all__ = ["DenoiserTask", "DiffusionTask", "Task", "UNetTask", "VAETask", "build_task"]


def build_task(
    recipe: Recipe, device: torch.device, ranks: Ranks, quarantine: Path | None = None
) -> Task:
    """The task that a recipe's kind names, with its weights.

    Args:
        quarantine: the file that remembers bad items of a user's data; None is no file.
    """
    if isinstance(recipe, VAERecipe):
        return VAETask(recipe, device, ranks, quarantine)
    if isinstance(recipe, UNetRecipe):
        return UNetTask(recipe, device, ranks, quarantine)
    if isinstance(recipe, DenoiserRecipe):
        return DenoiserTask(recipe, device, ranks, quarantine)
    raise UsageError(f"no task for recipes of kind {recipe.kind!r}")

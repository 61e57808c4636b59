"""What a run trains: a denoiser with its text encoder, or a VAE. The loop is the same for both."""

import torch

from statefilm.training.parallel import Ranks
from statefilm.training.recipe import DenoiserRecipe, Recipe, VAERecipe
from statefilm.training.tasks.denoiser import DenoiserTask
from statefilm.training.tasks.task import Task
from statefilm.training.tasks.vae import VAETask

__all__ = ["DenoiserTask", "Task", "VAETask", "build_task"]


def build_task(recipe: Recipe, device: torch.device, ranks: Ranks) -> Task:
    """The task that a recipe's kind names, with its weights."""
    if isinstance(recipe, VAERecipe):
        return VAETask(recipe, device, ranks)
    assert isinstance(recipe, DenoiserRecipe)
    return DenoiserTask(recipe, device, ranks)

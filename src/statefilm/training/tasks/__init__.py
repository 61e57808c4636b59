"""What a run trains, by the kind of its recipe. The loop is the same for all."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import ModelMixin

from statefilm.errors import UsageError
from statefilm.training.opening import open_sources
from statefilm.training.parallel import Ranks
from statefilm.training.recipe import DenoiserRecipe, Recipe, TextRecipe, UNetRecipe, VAERecipe
from statefilm.training.sources import Source
from statefilm.training.tasks.denoiser import DenoiserTask
from statefilm.training.tasks.diffusion import DiffusionTask
from statefilm.training.tasks.task import Task
from statefilm.training.tasks.text import TextTask
from statefilm.training.tasks.unet import UNetTask
from statefilm.training.tasks.vae import VAETask

__all__ = ["DenoiserTask", "DiffusionTask", "Task", "TextTask", "UNetTask", "VAETask", "build_task"]


def build_task(
    recipe: Recipe,
    device: torch.device,
    ranks: Ranks,
    folder: Path | None = None,
    sources: Sequence[Source] | None = None,
    vae: ModelMixin | None = None,
    vocabulary: Sequence[str] | None = None,
) -> Task:
    """The task that a recipe's kind names, with its weights.

    Args:
        folder: of the run, which remembers bad items of a user's data; None remembers none.
        sources: of the recipe's `streams`, where they are open already.
        vae: of a denoiser's recipe, where it is loaded already.
        vocabulary: of a run that goes on; see `Task.vocabulary`.
    """
    if sources is None:
        sources = open_sources(recipe, folder)
    if isinstance(recipe, VAERecipe):
        return VAETask(recipe, device, ranks, sources)
    if isinstance(recipe, TextRecipe):
        return TextTask(recipe, device, ranks, sources, vocabulary)
    if isinstance(recipe, UNetRecipe):
        return UNetTask(recipe, device, ranks, sources, vocabulary)
    if isinstance(recipe, DenoiserRecipe):
        return DenoiserTask(recipe, device, ranks, sources, vae, vocabulary)
    raise UsageError(f"no task for recipes of kind {recipe.kind!r}")

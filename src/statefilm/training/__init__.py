"""Training: recipes, objectives, and the loop that turns them into saved models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statefilm.training.loading import load_recipe, shipped_recipes
    from statefilm.training.recipe import Recipe
    from statefilm.training.trainer import Trainer

__all__ = ["Recipe", "Trainer", "load_recipe", "shipped_recipes"]

# Resolved at first use, so that naming the package does not import torch.
_HOMES = {
    "Recipe": "recipe",
    "Trainer": "trainer",
    "load_recipe": "loading",
    "shipped_recipes": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Recipes whose models come without weights: their sizes are read, their tensors are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from statefilm.errors import UsageError
from statefilm.pipelines import bundled_models, resolve_model
from statefilm.training.loading import load_recipe, shipped_recipes
from statefilm.training.recipe import (
    DenoiserRecipe,
    ModelSource,
    Recipe,
    TextSource,
    UNetRecipe,
    UNetSource,
)

__all__ = ["without_weights"]

# What makes up the size of a T5 encoder; the vocabulary comes with it.
TEXT_FIELDS = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate"),
    *("feed_forward_proj", "relative_attention_num_buckets", "relative_attention_max_distance"),
)


def without_weights(recipe: Recipe) -> Recipe:
    """The recipe with `init_from` replaced by a preset with the fields of the model found there.

    A folder that is not there yet may be the run folder of a shipped recipe: then its model is
    that recipe's.

    Raises:
        FileNotFoundError, UsageError: there is no such folder, recipe or model in it.
    """
    changes: dict[str, Any] = {}
    if isinstance(recipe, DenoiserRecipe | UNetRecipe):
        changes["model"] = _model(recipe.model)
        if recipe.text is not None:
            changes["text"] = _text(recipe.text)
    return recipe.model_copy(update=changes)


def _model(source: ModelSource | UNetSource) -> ModelSource | UNetSource:
    if source.init_from is None:
        return source
    plan = source.plan if isinstance(source, ModelSource) else None
    before = _recipe_of(source.init_from)
    if before is not None:
        first = _model(_section(before, "model", source.init_from))
        if isinstance(first, ModelSource) and plan is not None:
            return first.model_copy(update={"plan": plan})
        return first
    if isinstance(source, ModelSource):
        config = _config(source.init_from, "transformer")
        return ModelSource(preset="hth_tiny", overrides=config, plan=plan)
    return UNetSource(preset="unet_tiny", overrides=_config(source.init_from, "unet"))


def _text(source: TextSource) -> TextSource:
    if source.init_from is None:
        return source
    before = _recipe_of(source.init_from)
    if before is not None:
        first = _text(_section(before, "text", source.init_from))
        here = {"train": source.train, "max_length": source.max_length}
        return first.model_copy(update=here)
    config = _config(source.init_from, "text_encoder")
    fields = {name: config[name] for name in TEXT_FIELDS if name in config}
    return TextSource(
        preset="flan_t5_xxl", overrides=fields, train=source.train, max_length=source.max_length
    )


def _recipe_of(folder: str) -> Recipe | None:
    """The shipped recipe whose run folder this would be, if the folder is not there."""
    if Path(folder).exists() or folder in bundled_models():
        return None
    name = Path(folder).name
    for file in shipped_recipes().values():
        if file.stem == name or load_recipe(file).name == name:
            return without_weights(load_recipe(file))
    return None


def _section(recipe: Recipe, name: str, folder: str) -> Any:
    """The model or text section of the recipe that makes `folder`."""
    section = getattr(recipe, name, None)
    if section is None:
        raise UsageError(f"{folder} is made by a recipe of kind {recipe.kind}: it has no {name}")
    return section


def _config(name: str, part: str) -> dict[str, Any]:
    """The fields in the config of a part of a pipeline, or of a part's own folder."""
    folder = resolve_model(name)
    files = (folder / part / "config.json", folder / "config.json")
    file = next((file for file in files if file.is_file()), files[0])
    try:
        fields = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: damaged JSON ({error})") from None
    return {key: value for key, value in fields.items() if not key.startswith("_")}

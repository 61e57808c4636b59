"""Recipes whose models come without weights, and what is not there yet taken as promised."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from statefilm.data.latents import LatentCache
from statefilm.errors import UsageError
from statefilm.models.text import TEXT_PRESETS
from statefilm.models.vae import VAE_PRESETS, build_vae
from statefilm.pipelines import bundled_models, resolve_model
from statefilm.training.loading import load_recipe, shipped_recipes
from statefilm.training.opening import open_stream
from statefilm.training.recipe import (
    DenoiserRecipe,
    ModelSource,
    Recipe,
    TextSource,
    UNetRecipe,
    UNetSource,
)
from statefilm.training.sources import Samples, Size, Source, buckets_of
from statefilm.training.streams import FileSource

__all__ = ["planned_sources", "planned_vae", "without_weights"]

logger = logging.getLogger(__name__)

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


def planned_vae(recipe: Recipe) -> ModelMixin | None:
    """A recipe's VAE, where its folder is not there yet and bears the name of a preset."""
    if not isinstance(recipe, DenoiserRecipe) or recipe.vae is None:
        return None
    preset = _promised(recipe.vae, VAE_PRESETS)
    return None if preset is None else build_vae(preset)


def planned_sources(recipe: Recipe) -> tuple[Source, ...]:
    """The sources of a recipe's `streams`; files that are not there yet fill all their buckets."""
    return tuple(
        _planned_source(recipe, number, where) for number, where in enumerate(recipe.streams)
    )


def _planned_source(recipe: Recipe, number: int, where: str) -> Source:
    stream = recipe.streams[where]
    if stream.files is None or Path(stream.files.path).exists():
        return open_stream(recipe.seed, number, stream, where, recipe=recipe)
    logger.warning("%s.files: %s is not there yet: all its buckets count", where, stream.files.path)
    return _PromisedFiles(stream.files)


class _PromisedFiles:
    """Files that nobody has seen."""

    in_epochs = False  # their number is not known
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    captions: Sequence[str] = ()
    words: Sequence[str] = ()
    cache: LatentCache | None = None
    fingerprint = ""

    def __init__(self, config: FileSource) -> None:
        buckets, self.fps = buckets_of(config), config.fps
        self.sizes: tuple[Size, ...] = tuple((b.num_frames, *b.size) for b in buckets)

    def samples(self, start: int, count: int) -> Samples:
        raise FileNotFoundError("these files are only planned")


def _promised(folder: str, presets: Mapping[str, object]) -> str | None:
    """The preset whose name a folder bears that is not there yet, "flan-t5-xxl" for example."""
    name = Path(folder).name.replace("-", "_")
    return name if name in presets and not Path(folder).exists() else None


def _model(source: ModelSource | UNetSource) -> ModelSource | UNetSource:
    own: dict[str, Any] = {}
    if isinstance(source, ModelSource):
        own = {"freeze": source.freeze, "lora": source.lora, "convert_from": None}
        own |= {} if source.plan is None else {"plan": source.plan}
    if source.init_from is None:
        return source.model_copy(update=own)
    before = _recipe_of(source.init_from)
    if before is not None:
        first = _model(_section(before, "model", source.init_from))
        if "plan" in own and isinstance(first, ModelSource) and first.plan is not None:
            added = first.plan.added + own["plan"].added
            own["plan"] = own["plan"].model_copy(update={"added": added})
        return first.model_copy(update=own)
    if isinstance(source, ModelSource):
        config = _config(source.init_from, "transformer")
        return ModelSource(preset="hth_tiny", overrides=config, **own)
    return UNetSource(preset="unet_tiny", overrides=_config(source.init_from, "unet"))


def _text(source: TextSource) -> TextSource:
    if source.init_from is None:
        return source
    before = _recipe_of(source.init_from)
    if before is not None:
        first = _text(_section(before, "text", source.init_from))
        here = {"train": source.train, "max_length": source.max_length}
        return TextSource(**{**first.model_dump(), **here})
    preset = _promised(source.init_from, TEXT_PRESETS)
    config = TEXT_PRESETS[preset] if preset else _config(source.init_from, "text_encoder")
    fields = {name: config[name] for name in TEXT_FIELDS if name in config}
    return TextSource(
        preset="flan_t5_xxl", overrides=fields, train=source.train, max_length=source.max_length
    )


def _recipe_of(folder: str) -> Recipe | None:
    """The shipped recipe whose run folder this would be, if the folder is not there."""
    if Path(folder).exists() or folder in bundled_models():
        return None
    shipped = {name.replace("/", "-"): path for name, path in shipped_recipes().items()}
    path = shipped.get(Path(folder).name)
    return None if path is None else without_weights(load_recipe(path))


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

"""What a recipe says about encoding: its streams of files, its VAE and its text encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from statefilm.data.files import assign
from statefilm.data.latents import LatentCache, open_latents
from statefilm.errors import UsageError, suggest
from statefilm.pipelines import resolve_model
from statefilm.pipelines.loading import vae_folder
from statefilm.training.latents.encode import Outcome, encode_files
from statefilm.training.latents.encoders import DTYPES, EncoderSpec
from statefilm.training.latents.plan import Options
from statefilm.training.loading import dump_recipe
from statefilm.training.recipe import Recipe, TextSource
from statefilm.training.sources import buckets_of, source_of

__all__ = ["encode_stream", "file_streams", "open_latents_for", "spec_of"]


def file_streams(recipe: Recipe, folder: Path) -> dict[int, Path]:
    """The numbers of a recipe's streams of files, and where the latents of each go.

    Raises:
        UsageError: it has none, or trains a VAE or a text encoder.
    """
    if recipe.kind not in ("denoiser", "unet"):
        raise UsageError(
            f"{recipe.name} is of kind {recipe.kind!r}: latents are for what is trained on them, a "
            "denoiser or unet"
        )
    numbers = [n for n, stream in enumerate(recipe.data) if stream.files is not None]
    if not numbers:
        raise UsageError(f"{recipe.name} has no data of files: set data.0.files.path=FOLDER")
    if len(numbers) == 1:
        return {numbers[0]: folder}
    return {n: folder / f"data-{n}" for n in numbers}


def spec_of(
    recipe: Recipe, *, dtype: str = "bfloat16", posterior: bool = False, device: str = "auto"
) -> EncoderSpec:
    """The encoders that a recipe trains behind: those that do not learn themselves.

    Text is encoded where the recipe takes its text encoder from a folder and does not train it.

    Raises:
        UsageError: an unknown dtype, or a model's name that is none.
        FileNotFoundError: a model's folder is not there.
    """
    if dtype not in DTYPES:
        raise suggest(dtype, DTYPES, "dtype")
    vae: str | None = getattr(recipe, "vae", None)
    text: TextSource | None = getattr(recipe, "text", None)
    if text is not None and (text.init_from is None or text.train):
        text = None
    return EncoderSpec(
        vae=None if vae is None else vae_folder(vae),
        text=None if text is None else resolve_model(str(text.init_from)),
        max_length=1 if text is None else text.max_length,
        precision=recipe.precision,
        dtype=dtype,
        posterior=posterior,
        device=device,
    )


def encode_stream(
    recipe: Recipe,
    number: int,
    spec: EncoderSpec,
    folder: Path,
    options: Options,
    **how: Any,
) -> Outcome:
    """Encode the files of one stream of a recipe; `how` and the errors are of `encode_files`."""
    files = recipe.data[number].files
    assert files is not None
    source = source_of(files)
    found = assign(
        source.entries,
        buckets_of(files),
        fps=files.fps,
        max_upscale=files.max_upscale,
        stills=files.stills,
    )
    if not found.members:
        dropped, reason = next(iter(found.dropped.items()))
        name = source.entries[dropped].name
        raise UsageError(f"data.{number}.files: no item fits a bucket, as {name!r}: {reason}")
    options = replace(options, fps=files.fps, background=files.background)
    made = {"recipe": dump_recipe(recipe), "stream": number, "views": options.views}
    made["fps"] = files.fps
    return encode_files(source, found, spec, folder, options, made=made, **how)


def open_latents_for(recipe: Recipe, folder: str | Path) -> LatentCache:
    """The latents in a folder, if a recipe that names the same encoders may train on them.

    Raises:
        FileNotFoundError, UsageError: see `open_latents`; or they are of another VAE or text
            encoder, or of captions of another length.
    """
    cache = open_latents(folder)
    made, wanted = cache.encoding, spec_of(recipe, device="cpu").encoding()
    if made.vae != wanted.vae:
        raise UsageError(f"{folder}: {_encoded_by(made.vae)}, the recipe has another vae or none")
    if made.text is not None and made.text != wanted.text:
        if getattr(recipe, "text", None) is None:
            raise UsageError(f"{folder}: it has text states, the recipe reads no text")
        own = "" if wanted.text else ", which is fresh or learns"
        raise UsageError(f"{folder}: its text states are of another encoder than the recipe's{own}")
    if made.text is not None and made.max_length != wanted.max_length:
        raise UsageError(
            f"{folder}: its captions have up to {made.max_length} tokens, "
            f"text.max_length is {wanted.max_length}"
        )
    return cache


def _encoded_by(vae: str | None) -> str:
    return "frames without a VAE" if vae is None else f"latents of the VAE {vae[:8]}"

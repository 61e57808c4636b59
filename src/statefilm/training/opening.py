"""Opening what a recipe's streams draw from."""

from __future__ import annotations

from pathlib import Path

from statefilm.errors import UsageError
from statefilm.training.latents import OwnLatents, open_latents_for
from statefilm.training.randomness import seed_of
from statefilm.training.recipe import Recipe
from statefilm.training.sources import ClipSource, OwnFiles, Source, WorldSource
from statefilm.training.streams import Stream

__all__ = ["open_sources", "open_stream"]


def open_sources(recipe: Recipe, quarantine: Path | None = None) -> tuple[Source, ...]:
    """The source of each of a recipe's `streams`.

    Args:
        quarantine: the file that remembers bad items; held-out ones have a file beside it. None is
            no file.

    Raises:
        FileNotFoundError, UsageError: data are not there, not whole, or not for this recipe; one
            line that names the stream's place.
    """
    sources = []
    for number, (where, stream) in enumerate(recipe.streams.items()):
        seed = recipe.seed
        if number == len(recipe.data):
            seed, number = seed_of(seed, "validation"), 0
            quarantine = quarantine and quarantine.with_stem(f"{quarantine.stem}-validation")
        sources.append(open_stream(seed, number, stream, where, quarantine, recipe))
    return tuple(sources)


def open_stream(
    seed: int,
    number: int,
    stream: Stream,
    where: str,
    quarantine: Path | None = None,
    recipe: Recipe | None = None,
) -> Source:
    """The source of stream `number` of a run.

    Args:
        where: its place in the recipe, for messages.
        recipe: names the encoders that latents have to be of.
    """
    own = seed_of(seed, "files", number)
    if stream.files is not None:
        return OwnFiles(own, stream.files, stream.batch_size, f"{where}.files", quarantine)
    if stream.latents is not None:
        if recipe is None:
            raise UsageError(f"{where}.latents: give the recipe, which names their encoders")
        try:
            cache = open_latents_for(recipe, stream.latents.path)
            # The seed of files, so that a sample's latents come when the sample would have come.
            return OwnLatents(own, cache, stream.batch_size, drop_last=stream.latents.drop_last)
        except UsageError as error:
            raise UsageError(f"{where}.latents: {error}") from None
    own = seed_of(seed, "world", number)
    if stream.clips is not None:
        return ClipSource(own, stream.clips)
    assert stream.world is not None
    return WorldSource(own, stream.world)

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


def open_sources(recipe: Recipe, folder: Path | None = None) -> tuple[Source, ...]:
    """The source of each of a recipe's `streams`.

    Args:
        folder: of the run, where each stream of files has a file of its bad items,
            `quarantine-<number>.jsonl`; None keeps none.

    Raises:
        FileNotFoundError, UsageError: data are not there, not whole, or not for this recipe; one
            line that names the stream's place.
    """
    sources = []
    for number, (where, stream) in enumerate(recipe.streams.items()):
        seed, name = recipe.seed, str(number)
        if number == len(recipe.data):
            seed, number, name = seed_of(seed, "validation"), 0, "validation"
        # One a stream, whose names count from its own folder.
        own = folder and folder / f"quarantine-{name}.jsonl"
        sources.append(open_stream(seed, number, stream, where, own, recipe))
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
            return OwnLatents(own, cache, stream.batch_size)
        except UsageError as error:
            raise UsageError(f"{where}.latents: {error}") from None
    own = seed_of(seed, "world", number)
    if stream.clips is not None:
        return ClipSource(own, stream.clips)
    assert stream.world is not None
    return WorldSource(own, stream.world)

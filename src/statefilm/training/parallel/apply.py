"""What a recipe's `parallel` section does to the modules that a task has built."""

from __future__ import annotations

from torch import nn

from statefilm.errors import UsageError
from statefilm.training.parallel.ranks import Ranks
from statefilm.training.recipe import Recipe

__all__ = ["distribute"]


def distribute(modules: nn.ModuleDict, recipe: Recipe, ranks: Ranks) -> None:
    """Split tokens and parameters over the processes, where the recipe says so.

    Raises:
        UsageError: the modules cannot be split, or a stream's batches cannot be shared in
            `accumulate` parts.
    """
    for number, stream in enumerate(recipe.data):
        _, share = ranks.share(0, stream.batch_size)
        if share % recipe.accumulate:
            step = recipe.accumulate * ranks.sample_parts
            raise UsageError(
                f"data.{number}.batch_size {stream.batch_size} does not fall into accumulate "
                f"{recipe.accumulate} parts on {ranks.sample_parts} processes: "
                f"the nearest valid is {-(-stream.batch_size // step) * step}"
            )
    if not ranks.in_step:
        return
    if recipe.kind == "vae":
        raise UsageError(
            f"parallel.shard {ranks.shard} x context {ranks.context}: a VAE is trained whole on "
            "each process; use parallel.replicate"
        )
    if ranks.context > 1 and recipe.compile != "none":
        raise UsageError(
            f"parallel.context {ranks.context}: blocks whose tokens lie on several processes are "
            "not compiled; use compile=none"
        )
    assert ranks.groups is not None
    # Imported where it is wanted: both take a moment.
    if ranks.context > 1:
        from statefilm.training.parallel.context import split_tokens

        split_tokens(modules, ranks.groups.tokens)
    if ranks.shard > 1:
        from statefilm.training.parallel.sharding import shard_modules

        shard_modules(modules, ranks.groups.parameters)

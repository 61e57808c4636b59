"""What a recipe's `parallel` section does to the modules that a task has built."""

from __future__ import annotations

from statefilm.errors import UsageError
from statefilm.training.parallel.ranks import Ranks
from statefilm.training.recipe import Recipe
from statefilm.training.tasks import DenoiserTask, Task

__all__ = ["check_compile", "distribute", "sequence_lengths"]

WHOLE = {"vae": "a VAE", "text": "a text encoder"}  # kinds that are not split over processes


def distribute(task: Task, recipe: Recipe, ranks: Ranks) -> None:
    """Split tokens and parameters of a task's modules over the processes, as the recipe says.

    Raises:
        UsageError: the modules cannot be split, some samples are too short, or a stream's batches
            cannot be shared in `accumulate` parts.
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
    if recipe.kind in WHOLE:
        raise UsageError(
            f"parallel.shard {ranks.shard} x context {ranks.context}: {WHOLE[recipe.kind]} is "
            "trained whole on each process; use parallel.replicate"
        )
    check_compile(ranks.context, recipe)
    assert ranks.groups is not None
    # Imported where it is wanted: both take a moment.
    if ranks.context > 1:
        from statefilm.training.parallel.context import check_split, split_tokens

        check_split(task.modules, sequence_lengths(task, recipe), ranks.context)
        split_tokens(task.modules, ranks.groups.tokens)
    if ranks.shard > 1:
        from statefilm.training.parallel.sharding import shard_modules

        shard_modules(task.modules, ranks.groups.parameters)


def check_compile(context: int, recipe: Recipe) -> None:
    """Raise where tokens are to be split of blocks that are to be compiled."""
    if context > 1 and recipe.compile != "none":
        raise UsageError(
            f"parallel.context {context}: blocks whose tokens lie on several processes are "
            "not compiled; use compile=none"
        )


def sequence_lengths(task: Task, recipe: Recipe) -> dict[str, int]:
    """The shortest sequence that a denoiser's blocks mix, for each part of the recipe that has any.

    What stands beside the tokens of the grid counts, see `models.sequence`.
    """
    if not isinstance(task, DenoiserTask):
        return {}
    pipeline, config = task.pipeline, task.transformer.config
    held_out = () if task.held_out is None else task.held_out.sources
    sources = zip(recipe.streams, [*task.batches.sources, *held_out], strict=True)
    sizes = {where: list(source.sizes) for where, source in sources}
    if recipe.samples.every_steps:
        frames = [recipe.samples.num_frames] + [1] * bool(recipe.samples.world_scores)
        sizes["samples"] = [(count, *pipeline.default_size(count)) for count in frames]
    beside = config.text_prefix + config.registers
    return {
        where: beside + min(pipeline.num_tokens(*size) for size in some)
        for where, some in sizes.items()
    }

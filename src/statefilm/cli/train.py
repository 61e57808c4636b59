"""`statefilm train`: a recipe, with changes, trained into a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from statefilm.cli import options
from statefilm.cli.console import Console, hide_library_bars
from statefilm.cli.errors import INTERRUPTED, OK
from statefilm.errors import UsageError

if TYPE_CHECKING:
    from statefilm.pipelines import HTHPipeline
    from statefilm.training.recipe import Samples


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A YAML file or the name of a bundled recipe."),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Changes, such as steps=100 or data.0.batch_size=8."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="The run folder. [runs/NAME]"),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume", metavar="WHAT", help="auto (the newest checkpoint), none or a checkpoint."
        ),
    ] = "auto",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    dry_run: options.DryRun = False,
) -> int:
    """Train a model by a recipe.

    Running it again goes on where it stopped. The last line on stdout is the folder of the saved
    model, for `--model`.
    """
    from statefilm.training import Trainer, load_recipe

    loaded = load_recipe(recipe, changes or [])
    folder = output or Path("runs") / loaded.name
    trainer = Trainer(loaded, folder, device=device, quiet=quiet, score=world_scores)
    console = Console(quiet=trainer.quiet)
    if dry_run:
        console.note(f"would train {loaded.name} for {loaded.steps} steps in {folder}")
        return OK
    hide_library_bars()
    console.note(f"training {loaded.name} for {loaded.steps} steps in {folder}")
    try:
        saved = trainer.fit(resume)
    except KeyboardInterrupt as stop:
        if stop.args:
            console.note(str(stop))
        return INTERRUPTED
    if trainer.ranks.is_first:
        print(saved)
    return OK


def world_scores(pipe: HTHPipeline, samples: Samples) -> Callable[[], dict[str, float]]:
    """What scores a model on the world as `statefilm eval world` does, for `Trainer`.

    Prompts are always the same and noise depends on the samples' seed alone; as many pictures are
    made at once as there are samples.

    Returns:
        A function that gives the strict verdict of each image task and their mean and, where
        samples are clips, the share of right classes of motion; each 0 to 1.

    Raises:
        UsageError: the model makes nothing that can be read back.
    """
    from statefilm.data.world.render import MAX_SIZE, MIN_SIZE
    from statefilm.data.world.sample import legible_shapes
    from statefilm.data.world.tasks import T2I_TASKS, T2V_TASKS
    from statefilm.evaluation.world import evaluate_t2i, evaluate_t2v, generator
    from statefilm.evaluation.world.motion import MIN_FRAMES

    count, num_frames = samples.world_scores, samples.num_frames
    sizes = {frames: pipe.default_size(frames) for frames in (1, num_frames)}
    for height, width in sizes.values():
        if height != width or not MIN_SIZE <= width <= MAX_SIZE:
            raise UsageError(
                f"samples.world_scores {count}: pictures of {width}x{height} cannot be read back, "
                f"valid are squares of {MIN_SIZE} to {MAX_SIZE}; leave it out"
            )
    if 1 < num_frames < MIN_FRAMES:
        raise UsageError(
            f"samples.num_frames {num_frames} is too short for samples.world_scores: motion is "
            f"read from {MIN_FRAMES} frames on"
        )
    settings = {
        "num_inference_steps": samples.steps,
        "guidance_scale": samples.guidance_scale,
    }
    shapes = {frames: legible_shapes(width) for frames, (_, width) in sizes.items()}
    at_once = len(samples.prompts) or samples.count

    def score() -> dict[str, float]:
        found = evaluate_t2i(
            generator(pipe, 1, **settings),
            images_per_task=count,
            shapes=shapes[1],
            seed=samples.seed,
            batch_size=at_once,
        ).metrics
        scores = {task: found[f"{task}.strict"].value for task in (*T2I_TASKS, "mean")}
        if num_frames > 1:
            motion = T2V_TASKS[0]
            clips = evaluate_t2v(
                generator(pipe, num_frames, **settings),
                clips=count,
                tasks=[motion],
                shapes=shapes[num_frames],
                seed=samples.seed,
                batch_size=at_once,
            )
            scores[motion] = clips.metrics[motion].value
        return scores

    return score

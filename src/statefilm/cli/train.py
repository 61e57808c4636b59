"""`statefilm train`: a recipe, with changes, trained into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from statefilm.cli import options
from statefilm.cli.console import Console, hide_library_bars
from statefilm.cli.errors import INTERRUPTED, OK


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
    trainer = Trainer(loaded, folder, device=device, quiet=quiet)
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

"""`statefilm experiment`: a study of an open question, trained, measured and written up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from statefilm.cli import options
from statefilm.cli.console import Console, hide_library_bars
from statefilm.cli.errors import CommandError
from statefilm.errors import suggest


def experiment(
    name: Annotated[
        str | None, typer.Argument(help="The study; without one they are listed.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N", help="Seeds, with commas.")
    ] = "0,1",
    arms: Annotated[
        str | None, typer.Option("--arms", help="Only these, with commas. [all]")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Arms trained at a time.")] = 1,
    share: Annotated[
        float, typer.Option("--share", min=0.0, help="Of the study's steps, to try it out.")
    ] = 1.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Runs. [runs/experiments/NAME]"),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FOLDER", help="Where the page goes. [the runs' folder]"),
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train and measure the arms of a study and write its page.

    Run again, it goes on where it stopped. The last line on stdout is the page.
    """
    from statefilm.experiments import STUDIES, run_study, shortened, write_report

    if name is None:
        width = max(map(len, STUDIES))
        for study in STUDIES.values():
            print(f"{study.name:{width}}  {study.question}")
        return
    if name not in STUDIES:
        raise suggest(name, STUDIES, "study")
    study = STUDIES[name] if share == 1 else shortened(STUDIES[name], share)
    chosen = None if arms is None else [arm.strip() for arm in arms.split(",")]
    if chosen is not None and study.baseline not in chosen:
        raise CommandError(f"--arms {arms} leaves out {study.baseline!r}, the study's baseline")
    folder = output or Path("runs") / "experiments" / name
    hide_library_bars()
    console = Console(quiet=quiet)
    outcomes = run_study(study, folder, _seeds(seeds), arms=chosen, jobs=jobs, note=console.note)
    print(write_report(study, outcomes, folder, page or folder))


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise CommandError(f"--seeds {text!r}: valid are different whole numbers, as in 0,1,2")
    return seeds

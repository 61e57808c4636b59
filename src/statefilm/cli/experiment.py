"""`statefilm experiment`: a study of an open question, trained, measured and written up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from statefilm.cli import options, prefer, temporal
from statefilm.cli.console import Console, hide_library_bars
from statefilm.cli.errors import CommandError
from statefilm.errors import suggest

STUDY = "study"


class _Experiments(TyperGroup):
    """`experiment NAME` is a study of the catalogue, unless a command of its own has the name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = (*self.commands, "--help")
        return super().parse_args(ctx, args if args and args[0] in own else [STUDY, *args])


app = typer.Typer(
    cls=_Experiments,
    help="Train and measure the arms of a study, `experiment NAME`, or ask people.",
    rich_markup_mode=None,
)
app.command("prefer")(prefer.prefer)
app.command("temporal-memory")(temporal.memory)
app.command("temporal-quality")(temporal.quality)


@app.command(STUDY)
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
    share: temporal.Share = 1.0,
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
        questions = {study.name: study.question for study in STUDIES.values()}
        questions |= temporal.QUESTIONS
        width = max(map(len, questions))
        for other, question in questions.items():
            print(f"{other:{width}}  {question}")
        return
    if name not in STUDIES:
        raise suggest(name, [*STUDIES, *temporal.QUESTIONS], "study")
    temporal.check_share(share)
    study = STUDIES[name] if share == 1 else shortened(STUDIES[name], share)
    chosen = None if arms is None else [arm.strip() for arm in arms.split(",")]
    if chosen is not None and study.baseline not in chosen:
        raise CommandError(f"--arms {arms} leaves out {study.baseline!r}, the study's baseline")
    folder = output or Path("runs") / "experiments" / name
    hide_library_bars()
    console = Console(quiet=quiet)
    chosen_seeds = temporal.numbers("--seeds", seeds, first=0)
    outcomes = run_study(study, folder, chosen_seeds, arms=chosen, jobs=jobs, note=console.note)
    print(write_report(study, outcomes, folder, page or folder))

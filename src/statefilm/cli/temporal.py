"""`statefilm experiment temporal-memory` and `temporal-quality`: the studies of temporal layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from statefilm.cli import options
from statefilm.cli.console import Console, hide_library_bars
from statefilm.cli.errors import CommandError
from statefilm.cli.outputs import claim

MEMORY, QUALITY = "temporal-memory", "temporal-quality"
QUESTIONS = {
    MEMORY: "What do temporal layers cost by the number of frames, in bytes and time?",
    QUALITY: "Which temporal layer makes the best clips after the same training?",
}
RUNS = Path("runs") / "experiments"

Arms = Annotated[
    str | None, typer.Option("--arms", "--mixers", help="Only these, with commas. [all]")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="Runs. [runs/experiments/NAME]"),
]
Page = Annotated[
    Path | None,
    typer.Option("--page", metavar="FOLDER", help="Where the page goes. [the runs' folder]"),
]
Share = Annotated[
    float, typer.Option("--share", metavar="X", help="Of the study's steps, to try it out.")
]


def memory(
    frames: Annotated[
        str, typer.Option("--frames", metavar="N,N", help="Numbers of frames.")
    ] = "16,64,256,1024",
    arms: Arms = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each layer.")] = 5,
    budget: Annotated[
        float, typer.Option("--budget", min=0.0, help="Seconds; longer steps are not timed.")
    ] = 5.0,
    device: options.Device = "auto",
    output: Output = None,
    page: Page = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """What temporal layers cost by the number of frames: exact bytes, peaks, and times in turns.

    The last line on stdout is the page.
    """
    from statefilm.cli.memory import available_memory
    from statefilm.evaluation.speed.timing import Protocol
    from statefilm.experiments.temporal import measure_memory, write_memory_page
    from statefilm.pipelines.loading import pick_device

    chosen = pick_device(device)
    lengths = numbers("--frames", frames)
    folder = page or output or RUNS / MEMORY
    claim([folder / f"{MEMORY}.md", folder / MEMORY / "results.json"], force=force)
    free = available_memory(chosen)
    note = Console(quiet=quiet).note
    protocol = Protocol(rounds, budget=budget, memory=free, note=note)
    results = measure_memory(chosen, protocol, arms=words(arms), frames=lengths)
    print(write_memory_page(results, folder))


def quality(
    worlds: Annotated[
        str, typer.Option("--worlds", help="Of long clips: balls, maze, glyphs.")
    ] = "balls,maze",
    frames: Annotated[
        str, typer.Option("--frames", metavar="N,N", help="Lengths of the clips.")
    ] = "16",
    arms: Arms = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N,N", help="Seeds, with commas.")
    ] = "0,1",
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="Of training for each arm. [equal steps instead]"),
    ] = None,
    share: Share = 1.0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Arms trained at a time.")] = 1,
    output: Output = None,
    page: Page = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train U-Nets that differ in their temporal mixer alone, on worlds of laws, and judge them.

    Run again, it goes on where it stopped. The last line on stdout is the page.
    """
    from statefilm.data.worlds import WORLDS
    from statefilm.experiments import run_study, shortened
    from statefilm.experiments.temporal import quality_studies, study_folder, write_quality_page

    if minutes is not None and not minutes > 0:
        raise CommandError(f"--minutes {minutes:g}: valid is more than 0")
    if minutes is not None and share != 1:
        raise CommandError("--share is of the study's steps: give it, or --minutes")
    lengths, chosen_seeds = numbers("--frames", frames), numbers("--seeds", seeds, first=0)
    names = words(worlds)
    if not names:
        raise CommandError(f"--worlds {worlds!r}: valid are some of {', '.join(WORLDS)}")
    studies = quality_studies(names, lengths, arms=words(arms), minutes=minutes)
    check_share(share)
    studies = [study if share == 1 else shortened(study, share) for study in studies]
    folder = output or RUNS / QUALITY
    hide_library_bars()
    note = Console(quiet=quiet).note
    outcomes = [
        run_study(study, folder / study_folder(study), chosen_seeds, jobs=jobs, note=note)
        for study in studies
    ]
    print(write_quality_page(studies, outcomes, folder, page or folder))


def numbers(flag: str, text: str, first: int = 1) -> list[int]:
    """Different whole numbers from `first` on, with commas."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < first or len(set(found)) < len(found):
        example = ",".join(str(first + number) for number in range(3))
        raise CommandError(
            f"{flag} {text!r}: valid are different whole numbers from {first} on, as in {example}"
        )
    return found


def check_share(share: float) -> None:
    """Raises CommandError for what is no share of a study."""
    if not 0 < share < math.inf:
        raise CommandError(f"--share {share:g}: valid is more than 0, as in 0.01")


def words(text: str | None) -> list[str] | None:
    """What stands between commas; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]

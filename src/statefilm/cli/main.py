"""The command line's entry point: its commands, and exceptions turned into exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from statefilm import __version__
from statefilm.cli import (
    bench,
    data,
    doctor,
    encode,
    evaluate,
    experiment,
    image,
    info,
    meta,
    plan,
    train,
    video,
)
from statefilm.cli.errors import INTERRUPTED, OK, describe

app = typer.Typer(
    name="statefilm",
    help="Images and videos from text with state-space diffusion models.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"statefilm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command("image")(image.image)
app.command("video")(video.video)
app.command("train")(train.train)
app.command("encode")(encode.encode)
app.add_typer(evaluate.app, name="eval")
app.add_typer(bench.app, name="bench")
app.add_typer(data.app, name="data")
app.add_typer(experiment.app, name="experiment")
app.command("plan")(plan.plan)
app.command("info")(info.info)
app.command("meta")(meta.meta)
app.command("doctor")(doctor.doctor)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line (default: `sys.argv[1:]`) and return its exit code."""
    argv = list(sys.argv[1:] if args is None else args) or ["--help"]
    try:
        code = typer.main.get_command(app).main(argv, prog_name="statefilm", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # the parser's own way to say so
            raise KeyboardInterrupt
        return code or OK
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        failure = describe(error)
        if "-v" in argv or "--verbose" in argv:
            traceback.print_exc()
        hint = f"hint: {failure.hint}\n" if failure.hint else ""
        # In one write: print makes two of a line, and processes of one run share a stream.
        sys.stderr.write(f"error: {failure.message}\n{hint}")
        return failure.code


def main() -> None:
    """Console entry point."""
    sys.exit(run())

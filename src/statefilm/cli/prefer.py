"""`statefilm experiment prefer`: pairs judged blind on a local page, and who is preferred."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from statefilm.cli import options
from statefilm.cli.console import Console
from statefilm.cli.errors import CommandError
from statefilm.cli.outputs import check_writable, slug

if TYPE_CHECKING:
    from statefilm.experiments.prefer import Preference, Session

SUFFIXES = {"image": ".png", "video": ".mp4"}
MAX_NAME = 200
HASH = 10  # digits, as in what `statefilm image` writes


def prefer(
    a: Annotated[str, typer.Argument(metavar="A", help="A folder, or with prompts a model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    prompts_file: options.PromptsFile = None,
    num_frames: Annotated[
        int, typer.Option("--num-frames", min=1, help="Of what the models make; 1 is an image.")
    ] = 1,
    seed: Annotated[
        int,
        typer.Option("--seed", "-s", min=0, help="Of order and sides; prompt i uses seed + i."),
    ] = 0,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of the page; 0 takes a free one.")
    ] = 8765,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="For choices and what models make."),
    ] = Path("runs/prefer"),
    report: Annotated[
        bool, typer.Option("--report", help="Only say how it stands; open no page.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Judge pairs of images or clips side by side in the browser.

    A and B are folders with files of the same names, or with --prompts-file models, which then draw
    each prompt from the same noise. The page does not tell which is which; each choice is appended
    to choices.jsonl, and a second call goes on where the first one stopped, as long as the models
    are the same. Ctrl-C ends it.
    """
    from statefilm.experiments.prefer import ChoiceLog, Session, find_pairs, shuffled

    console = Console(json=as_json, quiet=quiet)
    folders, systems, drawn = (Path(a), Path(b)), (a, b), None
    if a == b:
        raise CommandError(f"A and B are both {a!r}", "give two folders or two models")
    if prompts_file is not None:
        kind, form = ("image", "") if num_frames == 1 else ("video", f"-{num_frames}-frames")
        hashes = _hash(a) + form, _hash(b) + form
        systems = f"{a} {hashes[0]}", f"{b} {hashes[1]}"
        folders = (
            output / f"a-{slug(a, MAX_NAME)}-{hashes[0]}",
            output / f"b-{slug(b, MAX_NAME)}-{hashes[1]}",
        )
    log = ChoiceLog(output / "choices.jsonl", systems)
    check_writable([log.path])
    if prompts_file is not None:
        for model, folder in zip((a, b), folders, strict=True):
            console.note(f"{model} draws what is missing in {folder}")
            drawn = _draw(model, kind, num_frames, prompts_file, seed, folder)
    pairs, unpaired = find_pairs(*folders, only=drawn)
    if unpaired:
        console.warn(f"{len(unpaired)} files have no partner: {unpaired[0]} ...")
    session = Session(shuffled(pairs, seed), log)
    if not report:
        _serve(session, port, console)
    found = session.preference()
    print(json.dumps(asdict(found)) if as_json else _text(found, a, b))


def _hash(model: str) -> str:
    """What tells a model's weights from others that its name will stand for."""
    from statefilm.pipelines import resolve_model
    from statefilm.pipelines.checkpoint import model_hash

    return model_hash(resolve_model(model))[:HASH]


def _serve(session: Session, port: int, console: Console) -> None:
    """The page, until Ctrl-C."""
    from statefilm.experiments.prefer import make_server

    try:
        server = make_server(session, port)
    except OSError as error:
        raise CommandError(f"port {port}: {error.strerror}", "--port 0 takes a free one") from None
    with server:
        console.note(f"open http://127.0.0.1:{server.server_port}/ and stop with Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.note("")


def _draw(
    model: str, kind: str, num_frames: int, prompts_file: Path, seed: int, to: Path
) -> list[str]:
    """Make what a model makes of each prompt, unless it is there; the names of the files."""
    from statefilm.cli.generate import generate
    from statefilm.cli.prompts import read_file
    from statefilm.cli.request import Request, plan_samples

    request = Request(
        kind=kind,
        model=model,
        prompts=read_file(prompts_file),
        num_frames=num_frames,
        seed=seed,
        output=f"{to}/{{i:4}}_{{prompt}}_{{seed}}{SUFFIXES[kind]}",
        skip_existing=True,
    )
    with redirect_stdout(sys.stderr):  # the paths are no result of this command
        generate(request, Console(quiet=True))
    return [sample.path.name for sample in plan_samples(request, seed)]


def _text(found: Preference, a: str, b: str) -> str:
    (low, high), (least, most) = found.win_rate_interval, found.score_interval
    return (
        f"A = {a}, B = {b}\n"
        f"{found.count} pairs: A better in {found.wins}, B in {found.losses}, "
        f"equal in {found.ties}\n"
        f"win rate of A          {found.win_rate:.3f}  ({low:.3f} to {high:.3f})\n"
        f"Bradley-Terry, A - B  {found.score:+.3f}  ({least:+.3f} to {most:+.3f})\n"
        f"{found.sentence('A', 'B')}"
    )

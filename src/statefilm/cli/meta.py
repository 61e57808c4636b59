"""`statefilm meta`: what made a file, or the command that makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from statefilm.cli import options
from statefilm.cli.console import Console
from statefilm.cli.errors import CommandError


def meta(
    file: Annotated[Path, typer.Argument(help="A PNG or MP4, or the JSON beside one.")],
    as_args: Annotated[
        bool, typer.Option("--as-args", help="The command that makes the file again.")
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Print what made a file, or the command for it."""
    from statefilm.pipelines.provenance import read_provenance

    found = read_provenance(file)
    if as_args and "batch_size" in found and "grid" not in found:
        Console().warn("made in a batch: made alone, its last bits may differ")
    if as_args:
        _warn_of_other_frames(found)
    print(
        shlex.join(command(found)) if as_args else json.dumps(found, indent=2, ensure_ascii=False)
    )


def _warn_of_other_frames(found: Mapping[str, Any]) -> None:
    """Say when the frames that a clip went on from are no longer those that it had."""
    from statefilm.cli.first_frames import digest

    path = found.get("first_frames")
    if not path:
        return
    try:
        same = digest(Path(path)) == found.get("first_frames_sha256")
    except CommandError:
        same = False
    if not same:
        Console().warn(f"{path} is not what the clip went on from: another clip would come of it")


def command(found: Mapping[str, Any]) -> list[str]:
    """The command line, as argv, that makes a file or a sheet again.

    Raises:
        UsageError: the provenance is not whole, or a sheet's seeds or negative prompts came from
            a prompts file.
    """
    from statefilm.pipelines.provenance import as_args

    cells = found.get("grid")
    args = as_args({**found, "label": None} if cells else found)
    if found.get("compile"):
        args.insert(2, "--compile")
    if not cells:
        return args
    first = cells[0]
    for index, cell in enumerate(cells):
        if cell["seed"] != first["seed"] + index:
            raise CommandError("the sheet's seeds do not count up; no flags give them")
        if cell["negative_prompt"] != first["negative_prompt"]:
            raise CommandError("the sheet has several negative prompts; no flags give them")
    # Every cell is a prompt of its own: the same samples as `--num` gives, and always expressible.
    rest = [f"--prompt={cell['prompt']}" for cell in cells[1:] if cell["prompt"]]
    rest += [f"--label={cell['label']}" for cell in cells if "label" in cell]
    rest = rest or [f"--num={len(cells)}"]
    batch = [f"--batch-size={found['batch_size']}"] if "batch_size" in found else []
    return [*args[:2], *rest, "--grid", *batch, *args[2:]]

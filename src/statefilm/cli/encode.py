"""`statefilm encode`: the latents and text states of a recipe's files, ahead of training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from statefilm.cli import options
from statefilm.cli.console import Console, hide_library_bars
from statefilm.cli.errors import OK, PARTIAL, CommandError

if TYPE_CHECKING:
    from statefilm.training.latents import Outcome

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def encode(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A YAML file or the name of a bundled recipe."),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes, such as data.0.files.path=FOLDER."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where latents go. [latents/NAME]"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare what was written with its checksums.")
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="process, or ray for many machines.")
    ] = "process",
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="That encode at the same time.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, help="Samples encoded at a time.")
    ] = 8,
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="Of a file, as 512MB or 2GB.")
    ] = "512MB",
    views: Annotated[
        int,
        typer.Option(
            "--views", metavar="N", min=1, help="Crops of each item; the first is the middle."
        ),
    ] = 1,
    posterior: Annotated[
        bool,
        typer.Option("--posterior", help="Store the spread of the VAE's code, to draw from it."),
    ] = False,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="TYPE", help="Stored: bfloat16 or float32.")
    ] = "bfloat16",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Encode the files of a recipe ahead of training.

    Running it again goes on where it stopped, and adds what is new. The last lines on stdout are
    the folders of latents, one for each stream of files. Exit code 3 if some items are broken:
    they are listed in quarantine.jsonl.
    """
    from statefilm.training import load_recipe
    from statefilm.training.latents import Options, encode_stream, file_streams, spec_of

    loaded = load_recipe(recipe, changes or [])
    folders = file_streams(loaded, output or Path("latents") / loaded.name)
    console = Console(quiet=quiet)
    if verify:
        return max(_verify(folder, console) for folder in folders.values())
    hide_library_bars()
    spec = spec_of(loaded, dtype=dtype, posterior=posterior, device=device)
    work = Options(views=views, batch_size=batch_size, shard_size=parse_size(shard_size))
    code = OK
    for number, folder in folders.items():
        with _Bar(console, f"encoding data.{number}.files into {folder}") as bar:
            outcome = encode_stream(
                loaded, number, spec, folder, work, engine=engine, workers=workers, progress=bar
            )
        _say(outcome, console)
        print(folder)
        code = PARTIAL if outcome.bad else code
    return code


class _Bar:
    """The bar of a run, which learns how long it is when all was checked."""

    def __init__(self, console: Console, title: str) -> None:
        from tqdm import tqdm

        self.console, self.title = console, title
        self.bar = tqdm(unit="row", disable=not console.progress)

    def __call__(self, done: int, to_do: int) -> None:
        if not done:
            self.console.note(self.title)
        self.bar.total = to_do
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def parse_size(text: str) -> int:
    """Bytes of a size such as 512MB.

    Raises:
        CommandError: it is none, or zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?B?)", text.strip(), re.IGNORECASE)
    unit = found[2].upper() if found else ""
    size = int(float(found[1]) * UNITS[unit if unit in UNITS else f"{unit}B"]) if found else 0
    if size < 1:
        raise CommandError(f"--shard-size {text!r} is not a size", "valid are 512MB, 2GB, 64KB")
    return size


def _say(outcome: Outcome, console: Console) -> None:
    facts = f"{outcome.samples} samples: {outcome.encoded} encoded, {outcome.reused} kept"
    if outcome.dropped:
        facts += f", {outcome.dropped} dropped (statefilm data inspect says why)"
    if outcome.cut:
        facts += f", {outcome.cut} captions cut"
    console.note(facts)
    for name, reason in outcome.bad.items():
        console.warn(f"{name}: {reason}")


def _verify(folder: Path, console: Console) -> int:
    from statefilm.data.latents import verify

    check = verify(folder)
    for path in check.damaged:
        print(f"damaged  {path}")
    for name in check.missing:
        print(f"missing  {name}")
    print(
        f"{folder}: {check.samples} samples in {check.shards} shards of {check.size / 1e6:.1f} MB, "
        f"{len(check.damaged)} damaged, {len(check.missing)} missing, {check.unused} unused"
    )
    if not check.is_whole:
        console.note("delete the damaged shards and run statefilm encode again")
    return OK if check.is_whole else PARTIAL

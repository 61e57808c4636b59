"""`statefilm data`: make captioned world samples; inspect and verify a user's own data."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statefilm.cli import options
from statefilm.cli.console import Console
from statefilm.cli.errors import OK, PARTIAL, CommandError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from tqdm import tqdm

    from statefilm.data.files import BadItem, Report
    from statefilm.training.streams import FileSource, LatentSource

app = typer.Typer(
    help="Make, inspect and verify captioned images and videos.", rich_markup_mode=None
)

METADATA = "metadata.jsonl"
CLIP_FRAMES = 17  # of a folder's clips, where nothing else is asked for
_PIXELS_AT_ONCE = 1 << 24

Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="How it is read, such as area=65536, lengths=[1,33] or layout=table; of a recipe "
        "any of its keys.",
    ),
]


@app.command()
def make(
    out: Annotated[Path, typer.Argument(help="The folder to write; new or empty.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Samples.")] = 100,
    size: Annotated[int, typer.Option("--size", min=1, help="Side in pixels.")] = 64,
    num_frames: Annotated[
        int, typer.Option("--num-frames", min=1, help="1 for images, more for clips.")
    ] = 1,
    fps: Annotated[float, typer.Option("--fps", min=1, help="Frames a second of clips.")] = 8,
    frames: Annotated[
        bool, typer.Option("--frames", help="Clips as folders of lossless PNG frames.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Sample i is (seed, i).")] = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write samples of the procedural world: PNG or MP4, captions and scene graphs."""
    from tqdm import tqdm

    from statefilm.data.world import sample_batch

    console = Console(quiet=quiet)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CommandError(f"{out} exists and is not an empty folder", "give a new folder")
    sample_batch(seed, 0, 1, size=size, num_frames=num_frames)  # refuses bad sizes
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".{METADATA}"
    at_once = max(1, _PIXELS_AT_ONCE // (num_frames * size * size))
    bar = tqdm(total=count, unit="sample", disable=not console.progress)
    with partial.open("w", encoding="utf-8") as metadata, bar:
        for start in range(0, count, at_once):
            some = min(at_once, count - start)
            batch = sample_batch(seed, start, some, size=size, num_frames=num_frames)
            for offset in range(some):
                name = _write_sample(out, start + offset, batch.frames[offset], fps, frames)
                row = {
                    "file_name": name,
                    "caption": batch.captions[offset],
                    "scene": batch.scenes[offset].as_dict(),
                }
                metadata.write(json.dumps(row) + "\n")
                bar.update()
    os.replace(partial, out / METADATA)
    console.note(f"{count} samples of seed {seed}")
    print(out / METADATA)


def _write_sample(out: Path, index: int, frames: torch.Tensor, fps: float, as_png: bool) -> str:
    """Write frames [3, T, H, W] in [-1, 1]; returns the name relative to `out`."""
    from PIL import Image

    from statefilm.pipelines.media import save_frames, save_mp4, save_png

    pixels = ((frames + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
    clip = [Image.fromarray(frame) for frame in pixels]
    name = f"{index:06d}"
    if len(clip) == 1:
        return save_png(clip[0], out / f"{name}.png").name
    if as_png:
        return save_frames(clip, out / name)[0].parent.name
    return save_mp4(clip, out / f"{name}.mp4", fps, min_side=0).name


@app.command()
def inspect(
    what: Annotated[
        str, typer.Argument(metavar="PATH|RECIPE", help="A folder, a file, or a recipe's name.")
    ],
    changes: Changes = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a contact sheet (PNG) here.")
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Also compare contents, which reads every byte.")
    ] = False,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> int:
    """What training on a user's own files sees: buckets, captions, what is dropped or broken.

    Headers are read, not contents: `verify` does that. Exit code 3 if an item is broken.
    """
    from statefilm.data.files import inspect as inspect_files
    from statefilm.training.sources import buckets_of, source_of
    from statefilm.training.streams import FileSource

    if sheet is not None and sheet.exists() and not force:
        raise CommandError(f"{sheet} exists", "--force overwrites it")
    reports = {
        place: inspect_files(
            source_of(section),
            buckets_of(section),
            fps=section.fps,
            max_upscale=section.max_upscale,
            stills=section.stills,
            duplicates=duplicates,
        )
        for place, section in _sections(what, changes or []).items()
        if isinstance(section, FileSource)
    }
    if not reports:
        raise CommandError(f"{what} has latents, no files", "statefilm data verify reads them")
    if as_json:
        facts = {place: _facts(report) for place, report in reports.items()}
        print(json.dumps(facts.get("", facts)))
    for place, report in reports.items():
        if not as_json:
            print(f"{place}:\n{report.table()}" if place else report.table())
    pictures = [picture for r in reports.values() if sheet and (picture := r.contact_sheet())]
    if sheet is not None and pictures:
        _stacked(pictures).save(sheet, format="PNG")
        print(sheet)
    return PARTIAL if any(report.source.refused for report in reports.values()) else OK


@app.command()
def verify(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PATH|RECIPE", help="A folder, a file, latents, or a recipe's name."
        ),
    ],
    changes: Changes = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Read data to the end before training does: a line for each item that is broken, with why.

    Pictures and all frames of clips are decoded; latents, of `statefilm encode`, are compared with
    their checksums. Exit code 3 if an item is broken.
    """
    from tqdm import tqdm

    from statefilm.training.streams import FileSource

    console = Console(quiet=quiet)
    found: dict[str, dict[str, Any]] = {}
    for place, section in _sections(what, changes or []).items():
        unit = "item" if isinstance(section, FileSource) else "shard"
        with tqdm(unit=unit, disable=not console.progress) as bar:

            def say(bad: BadItem) -> None:
                if not as_json:
                    tqdm.write(f"broken  {bad}", file=sys.stdout)

            if isinstance(section, FileSource):
                found[place] = _verify_files(section, bar, say)
            else:
                found[place] = _verify_latents(section, bar, say)
        facts = found[place]
        if not (as_json or quiet):
            print(f"{facts['root']}: {facts['items']} items, {len(facts['broken'])} broken")
    if as_json:
        print(json.dumps(found.get("", found)))
    return PARTIAL if any(facts["broken"] for facts in found.values()) else OK


def _verify_files(section: FileSource, bar: tqdm, say: Callable[[BadItem], None]) -> dict[str, Any]:
    """Decode all items; what is to be said of them as JSON holds it."""
    from statefilm.data.files import BadItem
    from statefilm.data.files import verify as verify_files
    from statefilm.training.sources import source_of

    def advance(bad: BadItem | None) -> None:
        if bad is not None:
            say(bad)
        bar.update()

    source = source_of(section)
    for name, reason in source.refused.items():
        say(BadItem(name, reason))
    bar.reset(len(source.entries))
    broken = source.refused | verify_files(source, advance=advance)
    items = len(source.entries) + len(source.refused)
    return {"root": str(source.root), "items": items, "broken": broken}


def _verify_latents(
    section: LatentSource, bar: tqdm, say: Callable[[BadItem], None]
) -> dict[str, Any]:
    """Compare all shards with their checksums; what is to be said of them as JSON holds it."""
    from statefilm.data.files import BadItem
    from statefilm.data.latents import verify as verify_latents

    check = verify_latents(section.path, bar.update)
    broken = dict.fromkeys(check.damaged, "its bytes have changed: delete it and encode again")
    broken |= dict.fromkeys(check.missing, "no whole shard holds it: encode again")
    for name, reason in broken.items():
        say(BadItem(name, reason))
    return {"root": section.path, "items": check.samples, "broken": broken}


def _sections(what: str, changes: Sequence[str]) -> dict[str, FileSource | LatentSource]:
    """The sections of a recipe that name a user's data by their place, or that of a path as ""."""
    from statefilm.training import load_recipe, shipped_recipes
    from statefilm.training.loading import apply_changes, read_section
    from statefilm.training.streams import FileSource, LatentSource

    if what in shipped_recipes() or Path(what).suffix in (".yaml", ".yml"):
        found = {
            f"{where}.{stream.kind}": section
            for where, stream in load_recipe(what, changes).streams.items()
            if (section := stream.files or stream.latents) is not None
        }
        if not found:
            raise CommandError(f"recipe {what} has no data of files", "give a folder instead")
        return found
    if _is_encoding(Path(what)):
        fields: dict[str, Any] = {"path": what}
        apply_changes(fields, changes)
        return {"": read_section(LatentSource, fields, what)}
    fields = {"path": what, "lengths": [1, CLIP_FRAMES]}
    apply_changes(fields, changes)
    return {"": read_section(FileSource, fields, what)}


def _is_encoding(folder: Path) -> bool:
    """Whether `statefilm encode` has written to a folder, its index last."""
    from statefilm.data.latents import INDEX, LATENTS, shard_files

    latents = folder / LATENTS
    return latents.is_dir() and ((folder / INDEX).is_file() or bool(shard_files(latents)))


def _facts(report: Report) -> dict[str, Any]:
    """A report as JSON holds it."""
    source = report.source
    return {
        "root": str(source.root),
        "layout": source.layout,
        "items": len(source.entries),
        "kinds": dict(report.kinds),
        "buckets": {str(bucket): count for bucket, count in report.counts.items()},
        "short_sides": report.short_sides,
        "lengths": report.lengths,
        "captioned": len(source.entries) - len(report.uncaptioned),
        "uncaptioned": report.uncaptioned,
        "dropped": report.dropped,
        "broken": source.refused,
        "duplicates": report.duplicates,
        "tables": report.source.tables,
        "unused_tables": report.tables,
    }


def _stacked(pictures: Sequence[Image]) -> Image:
    """Contact sheets one below the other."""
    from PIL import Image

    size = (max(one.width for one in pictures), sum(one.height for one in pictures))
    sheet, top = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    return sheet

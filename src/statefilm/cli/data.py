"""`statefilm data`: make a folder of captioned world samples, and inspect any captioned folder."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from statefilm.cli import options
from statefilm.cli.console import Console
from statefilm.cli.errors import OK, PARTIAL, CommandError, one_line

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

app = typer.Typer(help="Make and inspect captioned images and videos.", rich_markup_mode=None)

METADATA = "metadata.jsonl"
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
VIDEOS = frozenset({".mp4", ".webm", ".mkv", ".mov"})
SHEET_CELLS, CELL = 64, 96
_PIXELS_AT_ONCE = 1 << 24


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


@dataclass
class Findings:
    """What `inspect` found in a folder."""

    names: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    captions: list[str] = field(default_factory=list)
    uncaptioned: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="A folder of images or videos.")],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a contact sheet (PNG) here.")
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> int:
    """Count and open every file: sizes, captions, what is broken; exit code 3 if any is."""
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such folder")
    if sheet is not None and sheet.exists() and not force:
        raise CommandError(f"{sheet} exists", "--force overwrites it")
    captions = read_captions(folder)
    findings, pictures = examine(folder, captions)
    if not findings.names:
        raise CommandError(f"{folder}: holds no images or videos")
    print(json.dumps(_summary(findings)) if as_json else _report(folder, findings))
    if sheet is not None and pictures:
        _contact_sheet(pictures).save(sheet)
        print(sheet)
    return PARTIAL if findings.broken or findings.absent else OK


def _samples(folder: Path, named: Iterable[str] = ()) -> list[Path]:
    """The `named` samples that exist (a folder of frames is one), and all other media files."""
    listed = [folder / name for name in named]
    clips = {path for path in listed if path.is_dir()}
    files = (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGES | VIDEOS and path.is_file() and path.parent not in clips
    )
    return sorted(clips.union(files))


def read_captions(folder: Path) -> dict[str, str]:
    """Sample name to caption from `metadata.jsonl`, or from txt files beside the samples.

    Raises:
        CommandError: a line of the metadata is not an object with `file_name` and `caption`.
    """
    metadata = folder / METADATA
    if not metadata.is_file():
        beside = ((path, path.with_suffix(".txt")) for path in _samples(folder))
        return {
            path.relative_to(folder).as_posix(): text.read_text("utf-8").strip()
            for path, text in beside
            if text.is_file()
        }
    captions = {}
    for number, line in enumerate(metadata.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            captions[str(row["file_name"])] = str(row.get("caption") or row["text"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise CommandError(f"{metadata}:{number}: needs file_name and caption") from None
    return captions


def examine(folder: Path, captions: dict[str, str]) -> tuple[Findings, list[Image]]:
    """Open every sample; also returns pictures of the first ones, for a contact sheet."""
    findings = Findings()
    pictures: list[Image] = []
    for path in _samples(folder, captions):
        name = path.relative_to(folder).as_posix()
        findings.names.append(name)
        try:
            frames, picture = _open(path)
        except Exception as error:  # decoders raise many kinds; any of them means broken
            findings.broken[name] = one_line(error)
            continue
        findings.kinds["image" if frames == 1 else "video"] += 1
        clip = f" x {frames} frames" if frames > 1 else ""
        findings.sizes[f"{picture.width}x{picture.height}{clip}"] += 1
        if captions.get(name):
            findings.captions.append(captions[name])
        else:
            findings.uncaptioned.append(name)
        if len(pictures) < SHEET_CELLS:
            pictures.append(picture)
    findings.absent = sorted(set(captions) - set(findings.names))
    return findings, pictures


def _open(path: Path) -> tuple[int, Image]:
    """Decode all of a sample; its number of frames and the middle one."""
    from PIL import Image

    if path.suffix.lower() in VIDEOS:
        import av

        with av.open(path) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
    else:
        files = sorted(path.glob("*.png")) if path.is_dir() else [path]
        frames = []
        for file in files:
            with Image.open(file) as image:
                frames.append(image.convert("RGB"))
    if not frames:
        raise ValueError("holds no frames")
    return len(frames), frames[len(frames) // 2]


def _summary(findings: Findings) -> dict[str, Any]:
    words = Counter(word for caption in findings.captions for word in caption.lower().split())
    lengths = [len(caption.split()) for caption in findings.captions]
    return {
        "samples": len(findings.names),
        "kinds": dict(findings.kinds),
        "sizes": dict(findings.sizes.most_common()),
        "captioned": len(findings.captions),
        "different_captions": len(set(findings.captions)),
        "caption_words": [min(lengths), max(lengths)] if lengths else None,
        "different_words": len(words),
        "frequent_words": [word for word, _ in words.most_common(12)],
        "uncaptioned": findings.uncaptioned,
        "absent": findings.absent,
        "broken": findings.broken,
    }


def _report(folder: Path, findings: Findings) -> str:
    facts = _summary(findings)
    kinds = ", ".join(f"{n} {kind}s" for kind, n in facts["kinds"].items())
    lines = [
        f"{folder}: {facts['samples']} samples ({kinds or 'none whole'})",
        *(f"  size       {size}: {n}" for size, n in list(facts["sizes"].items())[:8]),
        f"  captions   {facts['captioned']}, {facts['different_captions']} different",
    ]
    if facts["caption_words"]:
        shortest, longest = facts["caption_words"]
        lines.append(
            f"  words      {shortest} to {longest} a caption, {facts['different_words']} "
            f"different: {' '.join(facts['frequent_words'])} ..."
        )
    lines += [f"  uncaptioned {name}" for name in findings.uncaptioned[:10]]
    lines += [f"  absent     {name}" for name in findings.absent[:10]]
    lines += [f"  broken     {name}: {why}" for name, why in list(findings.broken.items())[:10]]
    lines.append(
        f"  {len(findings.broken)} broken, {len(findings.absent)} absent, "
        f"{len(findings.uncaptioned)} without a caption"
    )
    return "\n".join(lines)


def _contact_sheet(pictures: Sequence[Image]) -> Image:
    """The pictures as cells of one size, in a grid about as wide as high."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * CELL, rows * CELL), "white")
    for index, picture in enumerate(pictures):
        thumbnail = picture.copy()
        thumbnail.thumbnail((CELL - 4, CELL - 4))
        row, column = divmod(index, columns)
        sheet.paste(thumbnail, (column * CELL + 2, row * CELL + 2))
    return sheet

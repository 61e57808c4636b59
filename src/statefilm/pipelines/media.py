"""Frames to files: PNG, MP4 and grids; written whole or not at all, never over another file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from statefilm.errors import UsageError
from statefilm.pipelines.provenance import png_info, sidecar_path, to_json

__all__ = [
    *("make_grid", "make_strip", "refuse_existing", "save_frames", "save_mp4", "save_png"),
    "spread",
]

BT709 = 1  # ISO/IEC 23091-2 code of matrix, primaries and transfer
LIMITED_RANGE = 1
FRAME = re.compile(r"frame_\d{4,}\.png")


def refuse_existing(path: str | Path, force: bool = False) -> None:
    """Raise `FileExistsError` where writing `path` would lose a file."""
    if not force and Path(path).exists():
        raise FileExistsError(f"{path} exists: choose another output or overwrite with --force")


def save_png(
    image: Image.Image,
    path: str | Path,
    meta: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> Path:
    """Write an image with its provenance; the same image and `meta` give the same bytes.

    Raises:
        FileExistsError: `path` is there and `force` is not set.
    """
    info = png_info(meta) if meta is not None else None
    return _write(path, force, lambda part: image.save(part, format="PNG", pnginfo=info))


def save_frames(
    frames: Sequence[Image.Image],
    folder: str | Path,
    meta: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
) -> list[Path]:
    """Write a clip as `frame_0000.png`, `frame_0001.png`, ... in `folder`.

    With `force` the frames of another clip that are there make way, also those beyond the last.

    Raises:
        FileExistsError: a frame is there and `force` is not set.
    """
    folder = Path(folder)
    present = sorted(path for path in folder.glob("frame_*.png") if FRAME.fullmatch(path.name))
    for path in present:
        refuse_existing(path, force)
    paths = [folder / f"frame_{index:04d}.png" for index in range(len(frames))]
    pairs = zip(frames, paths, strict=True)
    written = [save_png(frame, path, meta, force=force) for frame, path in pairs]
    for path in set(present).difference(paths):
        path.unlink()
    return written


def save_mp4(
    frames: Sequence[Image.Image],
    path: str | Path,
    fps: float,
    meta: Mapping[str, Any] | None = None,
    *,
    min_side: int = 256,
    crf: int = 12,
    force: bool = False,
) -> Path:
    """Write a clip as H.264 with its provenance in the container and in a JSON file beside it.

    Args:
        frames: T images of one size.
        fps: frames a second, > 0.
        min_side: small clips are enlarged by a whole factor, pixel by pixel, until the shorter
            side has this many pixels; 0 leaves them as they are. Odd sizes are doubled, since the
            format halves its colour planes.
        crf: x264's quality, 0 best to 51.

    Raises:
        UsageError: no frames, frames of several sizes, or a frame rate that is not positive.
        FileExistsError: the video or its JSON file is there and `force` is not set.
    """
    if not frames:
        raise UsageError("a video needs at least one frame, got none")
    if len({frame.size for frame in frames}) > 1:
        raise UsageError("the frames of a video must have one size")
    if not (math.isfinite(fps) and fps > 0):
        raise UsageError(f"fps {fps} must be greater than 0")
    path, sidecar = Path(path), sidecar_path(path)
    if meta is not None:
        refuse_existing(sidecar, force)
    scale = _display_scale(frames[0].size, min_side)
    _write(path, force, lambda part: _encode_mp4(frames, part, fps, scale, crf, meta))
    if meta is not None:
        text = to_json(meta) + "\n"
        _write(sidecar, force, lambda part: part.write_text(text, "utf-8"))
    return path


def make_grid(
    images: Sequence[Image.Image],
    columns: int | None = None,
    *,
    padding: int = 2,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """Images of one size side by side, row by row; as square as can be when `columns` is None."""
    if not images:
        raise UsageError("a grid needs at least one image, got none")
    if len({image.size for image in images}) > 1:
        raise UsageError("the images of a grid must have one size")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    size = (columns * (width + padding) + padding, rows * (height + padding) + padding)
    grid = Image.new("RGB", size, background)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        corner = (padding + column * (width + padding), padding + row * (height + padding))
        grid.paste(image, corner)
    return grid


def spread(length: int, count: int) -> list[int]:
    """Numbers of `count` of a clip's frames at even distances, first to last; at most all."""
    count = min(count, length)
    return [round(place * (length - 1) / max(1, count - 1)) for place in range(count)]


def make_strip(clips: Sequence[Sequence[Image.Image]], count: int) -> Image.Image:
    """A row for each clip: `count` of its frames at even distances, from the first to the last.

    Clips of fewer frames have all of theirs.
    """
    chosen = spread(min(len(clip) for clip in clips), count)
    return make_grid([clip[number] for clip in clips for number in chosen], columns=len(chosen))


def _display_scale(size: tuple[int, int], min_side: int) -> int:
    """The smallest whole factor that reaches `min_side` and makes both sides even."""
    scale = max(1, math.ceil(min_side / min(size)))
    return scale + 1 if scale % 2 and any(side % 2 for side in size) else scale


def _encode_mp4(
    frames: Sequence[Image.Image],
    path: Path,
    fps: float,
    scale: int,
    crf: int,
    meta: Mapping[str, Any] | None,
) -> None:
    width, height = (side * scale for side in frames[0].size)
    # "bitexact" leaves encoder versions out, "+faststart" lets players begin before the end.
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        if meta is not None:
            container.metadata["title"] = meta["prompt"]
            container.metadata["comment"] = to_json(meta)
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        for image in frames:
            pixels = np.asarray(image.convert("RGB")).repeat(scale, 0).repeat(scale, 1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write(path: str | Path, force: bool, write: Callable[[Path], Any]) -> Path:
    """Write beside `path` first, so that an interruption leaves the old file or none."""
    path = Path(path)
    refuse_existing(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path

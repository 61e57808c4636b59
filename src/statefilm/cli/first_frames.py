"""Frames that a clip goes on from: read from an MP4, a PNG or a folder of PNGs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from statefilm.cli.errors import CommandError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

BLACK = (0, 0, 0)  # what shows through transparent pixels


@dataclass(frozen=True)
class FirstFrames:
    """Given frames, all of one size, and where they came from.

    Attributes:
        path: as it was given.
        sha256: of the file's bytes, or of those of all PNGs of a folder in their order.
    """

    path: Path
    sha256: str
    images: list[Image]


def read_first_frames(path: Path) -> FirstFrames:
    """The frames of an MP4, of a PNG, or of a folder's PNGs in the order of their names.

    A video that was enlarged when it was written, as its provenance says, comes in its own size.

    Raises:
        CommandError: no such file, no frames in it, or frames of several sizes.
    """
    import av

    files = frame_files(path)
    is_video = files[0].suffix.lower() == ".mp4"
    images: list[Image] = []
    for file in files:
        try:
            images += _read_video(file) if is_video else [_read_image(file)]
        except (av.FFmpegError, OSError, SyntaxError, ValueError) as error:
            raise CommandError(f"{file}: cannot be read ({one_line(error)})") from None
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        found = " and ".join(f"{width}x{height}" for width, height in sizes[:2])
        raise CommandError(f"{path}: frames of several sizes, {found}")
    return FirstFrames(path, digest(path), images)


def frame_files(path: Path) -> list[Path]:
    """The files that hold the frames at `path`.

    Raises:
        CommandError: there is none.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".png")
        if not files:
            raise CommandError(f"{path}: holds no PNG")
        return files
    if not path.is_file():
        raise CommandError(f"{path}: no such file or folder of frames")
    if path.suffix.lower() not in (".mp4", ".png"):
        raise CommandError(f"{path}: first frames are an MP4, a PNG, or a folder of PNGs")
    return [path]


def digest(path: Path) -> str:
    """SHA-256 of the bytes of the files at `path`, one after the other."""
    sha = hashlib.sha256()
    for file in frame_files(path):
        sha.update(file.read_bytes())
    return sha.hexdigest()


def _read_image(path: Path) -> Image:
    from statefilm.data.files.entry import Limits
    from statefilm.data.files.images import image_size, read_image

    limits = Limits()
    with path.open("rb") as file:
        size = image_size(file, limits)
        return read_image(file, size, size, BLACK, limits)


def _read_video(path: Path) -> list[Image]:
    from PIL.Image import Resampling

    from statefilm.data.files.entry import Limits
    from statefilm.data.files.videos import read_frames, video_header

    limits = Limits()
    with path.open("rb") as file:
        header = video_header(file, limits)
        file.seek(0)
        times = [index / header.fps for index in range(header.frames)]
        images = read_frames(file, times, header.fps, BLACK, limits)
    scale = _enlargement(path, header.width, header.height)
    if scale == 1:
        return images
    size = (header.width // scale, header.height // scale)
    return [image.resize(size, Resampling.BOX) for image in images]


def _enlargement(path: Path, width: int, height: int) -> int:
    """The whole factor by which `save_mp4` enlarged a clip; 1 where the file does not say."""
    from statefilm.errors import UsageError
    from statefilm.pipelines.provenance import read_provenance

    try:
        made = read_provenance(path)
    except UsageError:
        return 1
    own_width, own_height = made.get("width"), made.get("height")
    if not (isinstance(own_width, int) and isinstance(own_height, int) and own_width > 0):
        return 1
    scale = width // own_width
    fits = scale > 0 and (width, height) == (scale * own_width, scale * own_height)
    return scale if fits else 1

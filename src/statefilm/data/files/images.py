"""Still images: their size from the header, and their pixels, upright, in RGB, on a background."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image

from statefilm.data.files.entry import Limits
from statefilm.errors import UsageError

__all__ = ["IMAGES", "Color", "image_size", "is_animated", "read_image", "to_rgb"]

Color = tuple[int, int, int]

IMAGES = frozenset(".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .avif .ppm .pgm".split())
# Not all that Pillow knows: it hands EPS to Ghostscript, which would run what a file says.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
_ORIENTATION = 0x0112  # tag of EXIF 2.3, section 4.6.4
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def image_size(file: BinaryIO, limits: Limits) -> tuple[int, int]:
    """Width and height as shown, read from the header."""
    with _open(file, limits) as image:
        return _shown_size(image)


def is_animated(file: BinaryIO, limits: Limits) -> bool:
    """Whether an image file has a second frame."""
    with _open(file, limits) as image:
        return getattr(image, "is_animated", False)


def read_image(
    file: BinaryIO,
    shown: tuple[int, int],
    least: tuple[int, int],
    background: Color,
    limits: Limits,
) -> Image.Image:
    """The first picture of a file, upright and in RGB.

    Args:
        shown: the size that the index holds; another one means that the file has changed.
        least: width and height that are needed at least. A JPEG may come at 1/2, 1/4 or 1/8 of
            its size where twice these are left.
        background: what shows through transparent pixels.
    """
    with _open(file, limits) as image:
        if _shown_size(image) != shown:
            raise UsageError(f"was {shown[0]} x {shown[1]} when it was indexed and is not now")
        turn = _orientation(image)
        width, height = least[::-1] if turn in _SIDEWAYS else least
        image.draft(None, (2 * width, 2 * height))
        image.load()
        picture = to_rgb(image, background)
        return picture.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else picture


def to_rgb(image: Image.Image, background: Color) -> Image.Image:
    """A decoded image of any mode as RGB; transparent parts show the background."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UsageError(
            f"pixels of mode {image.mode} have no known range: use PNG or TIFF of 8 or 16 bits"
        )
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _open(file: BinaryIO, limits: Limits) -> Iterator[Image.Image]:
    """An image whose header was read and found within the limits."""
    with warnings.catch_warnings():
        # Pillow warns of large images, which have a limit here, and of odd but harmless metadata.
        warnings.simplefilter("ignore")
        with Image.open(file, formats=_FORMATS) as image:
            limits.check_canvas(*image.size)
            yield image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 if there is none; never by decoding the image."""
    if image.format == "TIFF":  # which Pillow itself turns upright
        return 1
    # Pillow decodes a whole PNG to look for EXIF behind its pixels.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return image.getexif().get(_ORIENTATION, 1)


def _shown_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)

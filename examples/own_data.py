"""Two small data sets that nothing was tuned to: pictures and clips of the emoji of a colour font.

    python examples/own_data.py FONT FOLDER

FONT is a bitmap colour font such as NotoColorEmoji.ttf (Debian: fonts-noto-color-emoji). Writes
FOLDER/pictures and FOLDER/clips, a caption beside each file, in the way that folders of one's own
look: odd sizes, transparency, several formats, and a broken file among them.
"""

import argparse
import math
import random
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

STRIKE = 109  # the size in pixels for which the font has bitmaps
BLOCKS = ((0x1F32D, 0x1F37F), (0x1F400, 0x1F43E), (0x1F600, 0x1F637), (0x1F681, 0x1F6B2))
BACKGROUNDS = {"purple": "#8a5fc0", "blue": "#3f6fd8", "green": "#58a858", "pink": "#f0a0c0"}
FILMED = "🍎🍌🍕🎃🐸🐼🐙🦊🚗🚲🎈⚽😀😎👻🤖🌻🍄🐢🔥"
MOVES = ("spins", "bounces", "shakes", "grows", "rolls to the left", "rolls to the right")
FRAMES, FPS = 60, 25


def main() -> None:
    """Read the command line and write both folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("font", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    font = ImageFont.truetype(arguments.font, STRIKE)
    for name in ("pictures", "clips"):
        (arguments.folder / name).mkdir(parents=True, exist_ok=False)
    write_pictures(font, arguments.folder / "pictures")
    write_clips(font, arguments.folder / "clips")


def write_pictures(font: ImageFont.FreeTypeFont, folder: Path) -> None:
    """One picture of each emoji: every other one transparent, the rest on a colour."""
    draws = random.Random(0)
    characters = [chr(code) for first, last in BLOCKS for code in range(first, last + 1)]
    for number, character in enumerate(characters):
        caption = name_of(character)
        picture = drawn(font, character)
        if number % 2:
            colour = draws.choice(list(BACKGROUNDS))
            side = max(picture.size)
            size = (side + draws.randint(4, 60), side + draws.randint(4, 60))
            picture = on_canvas(picture, size, BACKGROUNDS[colour])
            caption = f"{caption} on a {colour} background"
        suffix = draws.choice(("png", "webp") if picture.mode == "RGBA" else ("png", "jpg"))
        path = folder / f"{number:03}.{suffix}"
        picture.save(path, quality=95)
        path.with_suffix(".txt").write_text(caption + "\n")
    whole = next(folder.glob("*.png")).read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 3])
    (folder / "broken.txt").write_text("a picture that was cut off\n")
    print(f"{len(characters)} pictures and a broken one in {folder}")


def write_clips(font: ImageFont.FreeTypeFont, folder: Path) -> None:
    """Two clips of each emoji in each move, on different backgrounds."""
    draws = random.Random(1)
    number = 0
    for character in FILMED:
        picture = drawn(font, character)
        for move in MOVES:
            for colour in draws.sample(list(BACKGROUNDS), 2):
                size = (draws.choice((160, 176, 200)), draws.choice((144, 160, 176)))
                path = folder / f"{number:03}.mp4"
                frames = moved(picture, move, size, BACKGROUNDS[colour], draws)
                write_clip(path, frames, size)
                caption = f"{name_of(character)} {move} on a {colour} background"
                path.with_suffix(".txt").write_text(caption + "\n")
                number += 1
    print(f"{number} clips in {folder}")


def name_of(character: str) -> str:
    """The name of a character in Unicode, in lower case."""
    return unicodedata.name(character).lower().replace("-", " ")


def drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """An emoji on nothing, cut to what it covers."""
    picture = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
    ImageDraw.Draw(picture).text((20, 20), character, font=font, embedded_color=True)
    box = picture.getbbox()
    if box is None:
        raise SystemExit(f"error: the font has no picture of {name_of(character)!r}")
    return picture.crop(box)


def on_canvas(picture: Image.Image, size: tuple[int, int], colour: str) -> Image.Image:
    """A picture in the middle of a coloured canvas."""
    canvas = Image.new("RGB", size, colour)
    corner = ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2)
    canvas.paste(picture, corner, picture)
    return canvas


def moved(
    picture: Image.Image, move: str, size: tuple[int, int], colour: str, draws: random.Random
) -> Iterator[Image.Image]:
    """The frames of a clip."""
    width, height = size
    phase = draws.random()
    for frame in range(FRAMES):
        turn = frame / FRAMES
        x, y, scale, angle = 0.5, 0.5, 0.5, 0.0
        if move == "spins":
            angle = -360 * (turn + phase)
        elif move == "bounces":
            y = 0.72 - 0.44 * abs(math.sin(math.pi * (2 * turn + phase)))
        elif move == "shakes":
            x += 0.12 * math.sin(2 * math.pi * (4 * turn + phase))
        elif move == "grows":
            scale = 0.2 + 0.7 * turn
        else:
            sign = -1 if move.endswith("left") else 1
            x = 0.5 + sign * 0.6 * (turn - 0.5)
            angle = -sign * 270 * turn
        side = max(2, round(scale * min(size)))
        ratio = side / max(picture.size)
        small = picture.resize((round(picture.width * ratio), round(picture.height * ratio)))
        small = small.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        canvas = Image.new("RGB", size, colour)
        corner = (round(x * width - small.width / 2), round(y * height - small.height / 2))
        canvas.paste(small, corner, small)
        yield canvas


def write_clip(path: Path, frames: Iterator[Image.Image], size: tuple[int, int]) -> None:
    """H.264 at `FPS` frames a second."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        stream.width, stream.height = size
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()

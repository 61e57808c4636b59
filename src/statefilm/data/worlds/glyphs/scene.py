"""Clips of moving digits: how they are drawn at random, painted and put into words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch

from statefilm.data.worlds.captions import (
    NUMBERS,
    read_count,
    read_list,
    unreadable,
    write_count,
    write_list,
)
from statefilm.data.worlds.glyphs.font import DIGITS, HALF_BOX, draw_digit

LIGHTS = ("red", "green", "blue")  # one channel each, so that overlaps add without loss
MAX_GLYPHS = len(LIGHTS)
SPEEDS = (0.012, 0.04)  # canvas sides per frame
NAMED = 0.5  # the part of captions that name digits and colours


@dataclass(frozen=True, slots=True)
class GlyphsTruth:
    """Digits over T frames, lengths in canvas sides, y downwards.

    Attributes:
        digits: 0 to 9, for each of the n glyphs.
        lights: a name of `LIGHTS` for each, all different, in the order of `LIGHTS`.
        centres: float64 [T, n, 2], (x, y).
    """

    digits: tuple[int, ...]
    lights: tuple[str, ...]
    centres: torch.Tensor


@dataclass(frozen=True, slots=True)
class GlyphsSaid:
    """What a caption says: the number of digits, and (light, digit) of each or ()."""

    count: int
    glyphs: tuple[tuple[str, int], ...] = ()


def compose(random: Random, num_frames: int) -> GlyphsTruth:
    """One to three digits on straight ways that the borders reflect."""
    count = random.randint(1, MAX_GLYPHS)
    lights = tuple(sorted(random.sample(LIGHTS, count), key=LIGHTS.index))
    digits = tuple(random.randrange(DIGITS) for _ in range(count))
    starts = [[random.uniform(half, 1 - half) for half in HALF_BOX] for _ in range(count)]
    ways = []
    for _ in range(count):
        speed, angle = random.uniform(*SPEEDS), random.uniform(0, 2 * math.pi)
        ways.append([speed * math.cos(angle), speed * math.sin(angle)])
    time = torch.arange(num_frames, dtype=torch.float64)[:, None, None]
    start, way = torch.tensor([starts, ways], dtype=torch.float64)
    return GlyphsTruth(digits, lights, reflect(start + time * way))


def reflect(centres: torch.Tensor) -> torch.Tensor:
    """Folds free ways [..., 2] back into the box in which a digit's centre can be."""
    low = torch.tensor(HALF_BOX, dtype=centres.dtype)
    width = 1 - 2 * low
    return low + width - ((centres - low).remainder(2 * width) - width).abs()


def render(truth: GlyphsTruth, size: int) -> torch.Tensor:
    """Paints the digits on black, light on light: float32 [3, T, size, size] in [-1, 1]."""
    frames = torch.full((3, len(truth.centres), size, size), -1.0)
    pixels = (torch.arange(size) + 0.5) / size
    for glyph, (digit, light) in enumerate(zip(truth.digits, truth.lights, strict=True)):
        x, y = truth.centres[:, glyph].float().unbind(-1)
        frames[LIGHTS.index(light)] = draw_digit(digit, x, y, pixels, pixels) * 2 - 1
    return frames


def write_caption(truth: GlyphsTruth, random: Random) -> str:
    """Such as "two digits bounce" or "a red three and a blue seven bounce"."""
    if random.random() < NAMED:
        pairs = zip(truth.lights, truth.digits, strict=True)
        return write_list([f"{light} {NUMBERS[digit]}" for light, digit in pairs])
    return write_count(len(truth.digits), "digit")


def read_caption(caption: str) -> GlyphsSaid:
    """The inverse of `write_caption`."""
    count = read_count(caption, "digit", MAX_GLYPHS)
    if count is not None:
        return GlyphsSaid(count)
    glyphs: list[tuple[str, int]] = []
    for thing in read_list(caption) or [""]:
        light, _, digit = thing.partition(" ")
        if light not in LIGHTS or digit not in NUMBERS or light in dict(glyphs):
            raise unreadable(caption, "a red three and a blue seven bounce")
        glyphs.append((light, NUMBERS.index(digit)))
    return GlyphsSaid(len(glyphs), tuple(glyphs))

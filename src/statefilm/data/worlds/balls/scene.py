"""Clips of balls: how they are drawn at random, painted and put into words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import torch

from statefilm.data.worlds.balls.physics import Billiard, Pair
from statefilm.data.worlds.captions import (
    read_count,
    read_list,
    unreadable,
    write_count,
    write_list,
)
from statefilm.data.worlds.palette import COLOR_NAMES, COLORS, RGB, levels

MAX_BALLS = 4
RADII = (0.075, 0.125)  # canvas sides
SPEEDS = (0.015, 0.04)  # at the start, canvas sides per frame
BACKGROUND: RGB = (16, 16, 20)
COLORED = 0.5  # the part of captions that name the colours
_GAP = 0.02  # between balls at the start


@dataclass(frozen=True, slots=True)
class BallsTruth:
    """Balls over T frames, lengths in canvas sides, y downwards.

    Attributes:
        colors: a name of `COLORS` for each of the n balls, all different.
        radii: one for each; masses are as their squares.
        centres: float64 [T, n, 2], (x, y).
        velocities: float64 [T, n, 2], per frame.
    """

    colors: tuple[str, ...]
    radii: tuple[float, ...]
    centres: torch.Tensor
    velocities: torch.Tensor


@dataclass(frozen=True, slots=True)
class BallsSaid:
    """What a caption says: the number of balls, and their colours or ()."""

    count: int
    colors: tuple[str, ...] = ()


def compose(random: Random, num_frames: int) -> BallsTruth:
    """One to four balls, equal or of different size, from a random start."""
    count = random.randint(1, MAX_BALLS)
    colors = tuple(random.sample(COLOR_NAMES, count))
    equal = random.random() < 0.5
    radius = random.uniform(*RADII)
    radii = tuple(radius if equal else random.uniform(*RADII) for _ in range(count))
    places = _apart(random, radii)
    velocities = [_velocity(random) for _ in radii]
    billiard = Billiard(places, velocities, radii)
    states = []
    for _ in range(num_frames):
        states.append((list(billiard.places), list(billiard.velocities)))
        billiard.advance(1.0)
    state = torch.tensor(states, dtype=torch.float64)
    return BallsTruth(colors, radii, state[:, 0], state[:, 1])


def render(truth: BallsTruth, size: int) -> torch.Tensor:
    """Paints anti-aliased discs: float32 [3, T, size, size] in [-1, 1]."""
    num_frames = len(truth.centres)
    background = levels([BACKGROUND])[0] * 2 - 1
    frames = background[:, None, None, None].repeat(1, num_frames, size, size)
    pixels = torch.arange(size) + 0.5
    inks = levels([COLORS[color] for color in truth.colors]) * 2 - 1
    for ball, (radius, ink) in enumerate(zip(truth.radii, inks, strict=True)):
        x, y = (truth.centres[:, ball] * size).float().T[:, :, None]
        distance = (x - pixels).square()[:, None, :] + (y - pixels).square()[:, :, None]
        covered = distance.sqrt_().neg_().add_(radius * size + 0.5).clamp_(0, 1)
        frames.lerp_(ink[:, None, None, None], covered)
    return frames


def write_caption(truth: BallsTruth, random: Random) -> str:
    """Such as "two balls bounce" or "a red ball and a blue ball bounce"."""
    if random.random() < COLORED:
        return write_list([f"{color} ball" for color in truth.colors])
    return write_count(len(truth.colors), "ball")


def read_caption(caption: str) -> BallsSaid:
    """The inverse of `write_caption`."""
    count = read_count(caption, "ball", MAX_BALLS)
    if count is not None:
        return BallsSaid(count)
    things = read_list(caption) or []
    colors = tuple(thing.removesuffix(" ball") for thing in things)
    known = all(f"{color} ball" in things and color in COLORS for color in colors)
    if not known or not 1 <= len(colors) <= MAX_BALLS or len(set(colors)) < len(colors):
        raise unreadable(caption, "a red ball and a blue ball bounce")
    return BallsSaid(len(colors), colors)


def _apart(random: Random, radii: tuple[float, ...]) -> list[Pair]:
    """First places at which no ball touches another; the box has room for every choice."""
    while True:
        places = [(random.uniform(r, 1 - r), random.uniform(r, 1 - r)) for r in radii]
        balls = list(zip(places, radii, strict=True))
        if all(
            math.dist(a, b) > r + s + _GAP
            for i, (a, r) in enumerate(balls)
            for b, s in balls[i + 1 :]
        ):
            return places


def _velocity(random: Random) -> Pair:
    speed, angle = random.uniform(*SPEEDS), random.uniform(0, 2 * math.pi)
    return speed * math.cos(angle), speed * math.sin(angle)

"""Curves: walks over the H x W sites of one frame, as lists of row-major site indices."""

from __future__ import annotations

import random
from collections.abc import Iterator

CURVES = ("diagonal", "antidiagonal", "spiral", "hilbert", "random")
"""Names of the curves; ``random:SEED`` chooses another shuffle than that of seed 0."""


def walk(curve: str, height: int, width: int) -> list[int]:
    """Sites in the order of a canonical curve name: ``height * width`` row-major indices."""
    if curve == "diagonal":
        return diagonal(height, width)
    if curve == "antidiagonal":
        return antidiagonal(height, width)
    if curve == "spiral":
        return spiral(height, width)
    if curve == "hilbert":
        return hilbert(height, width)
    return shuffled(height * width, seed=int(curve.removeprefix("random:")))


def diagonal(height: int, width: int) -> list[int]:
    """Anti-diagonals from the top left, every other one reversed: consecutive sites touch."""
    sites: list[int] = []
    for total in range(height + width - 1):
        rows = range(max(0, total - width + 1), min(height, total + 1))
        sites += [row * width + total - row for row in (rows if total % 2 else reversed(rows))]
    return sites


def antidiagonal(height: int, width: int) -> list[int]:
    """The mirror image of `diagonal`, from the top right."""
    return [site + width - 1 - 2 * (site % width) for site in diagonal(height, width)]


def spiral(height: int, width: int) -> list[int]:
    """Clockwise from the top left, ring after ring inwards: consecutive sites share an edge."""
    sites: list[int] = []
    top, left, bottom, right = 0, 0, height - 1, width - 1
    while top <= bottom and left <= right:
        sites += [top * width + column for column in range(left, right + 1)]
        sites += [row * width + right for row in range(top + 1, bottom + 1)]
        if top < bottom and left < right:
            sites += [bottom * width + column for column in range(right - 1, left - 1, -1)]
            sites += [row * width + left for row in range(bottom - 1, top, -1)]
        top, left, bottom, right = top + 1, left + 1, bottom - 1, right - 1
    return sites


def hilbert(height: int, width: int) -> list[int]:
    """Hilbert curve generalised to any rectangle, along the longer side.

    Consecutive sites share an edge, but for at most one diagonal step where the longer side is
    odd and the shorter even. On a square whose side is a power of two it is Hilbert's own curve.
    Source: J. Cerveny, "gilbert: space-filling curve for rectangular domains of arbitrary size".
    """
    down, right = complex(height), complex(0, width)
    major, minor = (right, down) if width >= height else (down, right)
    return [int(site.real) * width + int(site.imag) for site in _hilbert(0j, major, minor)]


def shuffled(count: int, seed: int) -> list[int]:
    """A permutation of ``range(count)`` that depends on ``seed`` alone.

    Trained weights depend on it, so it rests on the one sequence that Python promises never to
    change between versions: that of ``Random.random``.
    """
    draw = random.Random(seed).random
    keys = [draw() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def _hilbert(start: complex, major: complex, minor: complex) -> Iterator[complex]:
    """Fill the rectangle spanned by two axis-parallel vectors and leave at the end of ``major``.

    A site is row + column * 1j, so that vectors add, turn and scale as numbers do.
    """
    length, breadth = int(abs(major)), int(abs(minor))
    along, across = major / length, minor / breadth
    if breadth == 1:
        yield from (start + i * along for i in range(length))
    elif length == 1:
        yield from (start + i * across for i in range(breadth))
    elif 2 * length > 3 * breadth:
        half = _even_half(length) * along
        yield from _hilbert(start, half, minor)
        yield from _hilbert(start + half, major - half, minor)
    else:
        # Up one side, over the top, down the other: the three turns of Hilbert's curve.
        half = length // 2 * along
        rise = _even_half(breadth) * across
        yield from _hilbert(start, rise, half)
        yield from _hilbert(start + rise, major, minor - rise)
        yield from _hilbert(start + (major - along) + (rise - across), -rise, half - major)


def _even_half(length: int) -> int:
    """Half of ``length``, rounded up to an even number where that leaves something over."""
    half = length // 2
    return half + 1 if half % 2 and length > 2 else half

"""Balls in a square box without friction: from contact to contact, exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

Pair = tuple[float, float]

MOST_CONTACTS = 1000  # in one call of `advance`


@dataclass(slots=True)
class Billiard:
    """Discs in the unit square with masses as their areas; collisions are elastic.

    Between contacts all balls fly straight, so that each next contact is the root of a linear or a
    quadratic equation and no step size enters. Everything is float64.

    Attributes:
        places, velocities: (x, y) of each ball, y downwards, in canvas sides and those per frame.
        radii: in canvas sides.
    """

    places: list[Pair]
    velocities: list[Pair]
    radii: Sequence[float]

    def advance(self, time: float) -> None:
        """Lets a time pass, in frames.

        Balls that overlap, as only a picture can show them, may push each other without end: behind
        the thousandth contact what is left of the time passes without one.
        """
        for _ in range(MOST_CONTACTS):
            wait, first, second = self._next_contact()
            if wait > time:
                break
            self._drift(wait)
            time -= wait
            if isinstance(second, str):
                self._reflect(first, second)
            else:
                self._collide(first, second)
        self._drift(time)

    def energy(self) -> float:
        """Kinetic energy, with the squared radius as the mass."""
        pairs = zip(self.radii, self.velocities, strict=True)
        return math.fsum(r * r * (vx * vx + vy * vy) / 2 for r, (vx, vy) in pairs)

    def _drift(self, time: float) -> None:
        self.places = [
            (x + vx * time, y + vy * time)
            for (x, y), (vx, vy) in zip(self.places, self.velocities, strict=True)
        ]

    def _next_contact(self) -> tuple[float, int, int | str]:
        """When, which ball, and with which ball or with the walls across which axis."""
        first: tuple[float, int, int | str] = (math.inf, 0, "x")
        for ball, radius in enumerate(self.radii):
            for axis, name in enumerate("xy"):
                wait = _until_wall(self.places[ball][axis], self.velocities[ball][axis], radius)
                if wait < first[0]:
                    first = (wait, ball, name)
        for a, b in combinations(range(len(self.radii)), 2):
            wait = self._until_touch(a, b)
            if wait < first[0]:
                first = (wait, a, b)
        return first

    def _until_touch(self, a: int, b: int) -> float:
        dx, dy, du, dv = self._apart(a, b)
        approach = -(dx * du + dy * dv)
        if approach <= 0:
            return math.inf
        gap = dx * dx + dy * dy - (self.radii[a] + self.radii[b]) ** 2
        root = approach * approach - (du * du + dv * dv) * gap
        # The form of the quadratic's smaller root that does not cancel.
        return max(0.0, gap / (approach + math.sqrt(root))) if root >= 0 else math.inf

    def _reflect(self, ball: int, axis: str) -> None:
        vx, vy = self.velocities[ball]
        self.velocities[ball] = (-vx, vy) if axis == "x" else (vx, -vy)

    def _collide(self, a: int, b: int) -> None:
        """Exchanges momentum along the line of centres."""
        dx, dy, du, dv = self._apart(a, b)
        mass_a, mass_b = self.radii[a] ** 2, self.radii[b] ** 2
        pull = 2 * (dx * du + dy * dv) / ((dx * dx + dy * dy) * (mass_a + mass_b))
        (ax, ay), (bx, by) = self.velocities[a], self.velocities[b]
        self.velocities[a] = (ax + pull * mass_b * dx, ay + pull * mass_b * dy)
        self.velocities[b] = (bx - pull * mass_a * dx, by - pull * mass_a * dy)

    def _apart(self, a: int, b: int) -> tuple[float, float, float, float]:
        """Place and velocity of ball b as seen from ball a."""
        (ax, ay), (bx, by) = self.places[a], self.places[b]
        (au, av), (bu, bv) = self.velocities[a], self.velocities[b]
        return bx - ax, by - ay, bu - au, bv - av


def _until_wall(place: float, speed: float, radius: float) -> float:
    if speed > 0:
        return max(0.0, (1 - radius - place) / speed)
    if speed < 0:
        return max(0.0, (radius - place) / speed)
    return math.inf

"""Placement: first centres for things so that they stay on the canvas and apart at all times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Uniform = Callable[[], float]
Reach = tuple[float, float, float, float]  # left, right, up, down of the first centre

# In canvas sides, so that a scene fits every size: 1.6 and 2.5 pixels on the smallest canvas.
MARGIN = 0.05
GAP = 0.08
# Off the axis of a relation, centres differ by at most this part of their distance along it.
OBLIQUENESS = 0.5
_ATTEMPTS = 64  # at all things together
_THROWS = 8  # at each next one


def place(
    reaches: Sequence[Reach], uniform: Uniform, relation: str | None = None
) -> list[tuple[float, float]] | None:
    """Random centres (x, y), one for each reach; None where no free place was found.

    With a `relation`, the first two are also clearly in it: apart along its axis and more along it
    than across.
    """
    room = 1 - 2 * MARGIN
    if any(left + right > room or up + down > room for left, right, up, down in reaches):
        return None
    for _ in range(_ATTEMPTS):
        centres = _attempt(reaches, uniform)
        if centres and (relation is None or related(relation, *centres[:2])):
            return centres
    return None


def related(relation: str, a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether centre `a` is in a relation to `b`, clearly more along its axis than across."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    if relation in ("left of", "above"):
        along = -along
    return along > 0 and abs(across) <= OBLIQUENESS * along


def _attempt(reaches: Sequence[Reach], uniform: Uniform) -> list[tuple[float, float]] | None:
    """Throws one thing after the other, each again until it is free of those before."""
    centres: list[tuple[float, float]] = []
    for reach in reaches:
        left, right, up, down = reach
        others = list(zip(centres, reaches, strict=False))
        for _ in range(_THROWS):
            x = MARGIN + left + uniform() * (1 - 2 * MARGIN - left - right)
            y = MARGIN + up + uniform() * (1 - 2 * MARGIN - up - down)
            if all(_apart((x, y), reach, *other) for other in others):
                centres.append((x, y))
                break
        else:
            return None
    return centres


def _apart(a: tuple[float, float], reach_a: Reach, b: tuple[float, float], reach_b: Reach) -> bool:
    return (
        a[0] - reach_a[0] - b[0] - reach_b[1] >= GAP
        or b[0] - reach_b[0] - a[0] - reach_a[1] >= GAP
        or a[1] - reach_a[2] - b[1] - reach_b[3] >= GAP
        or b[1] - reach_b[2] - a[1] - reach_a[3] >= GAP
    )

"""Paths through values that each frame tells only modulo one."""

from __future__ import annotations

import math

import torch

PARTS = 24  # places tried in each cell
MAX_SPEED = 10  # in those parts per frame
FREE_CHANGE = 6  # change of speed, in parts per frame, beyond which more costs no more
CHANGE_COST = 1.0  # of such a change, in frames that agree fully
DOUBT = 0.1  # weight that takes no part in an agreement
MAX_OFF = 2 / PARTS  # cells by which a frame may correct the path


def agreed(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean of values modulo 1 as points in the unit circle.

    Args:
        values: float64 [..., W], each of a weight >= 0.

    Returns:
        complex128 [...]: the mean's angle is 2 pi times the value, its length, up to 1, says how
        far they agree; it is small where all weights are.
    """
    weight = weight.double()
    points = torch.polar(weight, 2 * math.pi * values)
    return points.sum(-1) / (weight.sum(-1) + DOUBT)


def nearest_path(means: torch.Tensor) -> torch.Tensor:
    """The path [T] from frame to frame by the shortest steps, for means [T] that agree well."""
    phase = means.angle() / (2 * math.pi)
    steps = phase.diff(prepend=phase[:1] * 0)
    return (steps - steps.round()).cumsum(0)


def steady_path(means: torch.Tensor) -> torch.Tensor:
    """The paths [N, T] that agree most with the means [N, T] and change their speed least.

    Found by dynamic programming over places and speeds (Viterbi), so that a frame that tells
    nothing or a wrong value does not lose the path. It starts between 0 and 1.
    """
    rows = len(means)
    speeds = torch.arange(-MAX_SPEED, MAX_SPEED + 1)
    change = (speeds[:, None] - speeds).abs() / FREE_CHANGE
    cost = CHANGE_COST * change.clamp(max=1).double()
    places = torch.arange(PARTS)
    came_from = (places[:, None] - speeds) % PARTS  # [places, speeds]
    rays = torch.polar(
        torch.ones(PARTS, dtype=torch.float64), -2 * math.pi * places.double() / PARTS
    )
    gains = (means[..., None] * rays).real  # [N, T, places]

    score = gains[:, 0, :, None].expand(-1, -1, len(speeds))
    choices = []
    for gain in gains.unbind(1)[1:]:
        best = (score[..., None] - cost).max(2)  # over the speed before
        index = came_from.expand(rows, -1, -1)
        score = best.values.gather(1, index) + gain[..., None]
        choices.append(best.indices.gather(1, index))

    rough = torch.stack(
        [_trace_back(score[row], [c[row] for c in choices], speeds) for row in range(rows)]
    )
    phase = means.angle() / (2 * math.pi)
    off = phase - rough
    off = off - off.round()
    fine = rough + torch.where((means.abs() > 0.5) & (off.abs() <= MAX_OFF), off, 0.0)
    return fine - fine[:, :1].floor()


def _trace_back(
    score: torch.Tensor, choices: list[torch.Tensor], speeds: torch.Tensor
) -> torch.Tensor:
    """The best path [T] in cells, from the last score and the speeds before each step."""
    place, speed = divmod(int(score.argmax()), len(speeds))
    steps = []
    for choice in reversed(choices):
        steps.append(int(speeds[speed]))
        before = int(choice[place, speed])
        place, speed = (place - steps[-1]) % PARTS, before
    path = torch.tensor([place, *reversed(steps)], dtype=torch.float64)
    return path.cumsum(0) / PARTS

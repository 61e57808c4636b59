"""Where each thing is, how large and of which colour, in every frame of a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from statefilm.data.world.scene import COLORS, EXTENTS, RADIUS, Motion, Scene, Thing

_BASES = 4  # functions of the time u in [0, 1] within a motion, see `_bases`
_LINEAR, _DROP, _TURN_X, _TURN_Y = range(_BASES)
_X, _Y, _SIZE = range(3)
# kind -> {(what changes, basis): factor per unit of speed}
_PATHS: dict[str, dict[tuple[int, int], float]] = {
    "still": {},
    "left": {(_X, _LINEAR): -1.0},
    "right": {(_X, _LINEAR): 1.0},
    "up": {(_Y, _LINEAR): -1.0},
    "down": {(_Y, _LINEAR): 1.0},
    "bounce": {(_Y, _DROP): 1.0},
    "orbit": {(_X, _TURN_X): 1.0, (_Y, _TURN_Y): 1.0},
    "grow": {(_SIZE, _LINEAR): 1.0},
    "shrink": {(_SIZE, _LINEAR): -1.0},
}
# kind -> least and greatest x and y; x, y and log size at the end; per unit of speed
_SWEEPS: dict[str, tuple[float, ...]] = {
    "still": (0, 0, 0, 0, 0, 0, 0),
    "left": (-1, 0, 0, 0, -1, 0, 0),
    "right": (0, 1, 0, 0, 1, 0, 0),
    "up": (0, 0, -1, 0, 0, -1, 0),
    "down": (0, 0, 0, 1, 0, 1, 0),
    "bounce": (0, 0, 0, 1, 0, 0, 0),
    "orbit": (-0.5, 0.5, 0, 1, 0, 0, 0),
    "grow": (0, 0, 0, 0, 0, 0, 1),
    "shrink": (0, 0, 0, 0, 0, 0, -1),
}


@dataclass(frozen=True, slots=True)
class Tracks:
    """The state of N things a scene (fewer: `present` is False) over T frames.

    Attributes:
        x, y, radius: float32 [B, N, T], in canvas sides; radius is the equal-area circle's.
        color: uint8 sRGB, int64 [B, N, T, 3].
        present: bool [B, N].
    """

    x: torch.Tensor
    y: torch.Tensor
    radius: torch.Tensor
    color: torch.Tensor
    present: torch.Tensor


def tracks(scenes: Sequence[Scene], num_frames: int) -> Tracks:
    """The exact state of every thing in `num_frames` frames, the first at time 0, the last at 1."""
    things = max((len(scene.things) for scene in scenes), default=0)
    rows = [_row(thing) for scene in scenes for thing in _padded(scene.things, things)]
    values = torch.tensor([row[0] for row in rows], dtype=torch.float64)
    values = values.reshape(len(scenes), things, 3 + 2 * 3 * _BASES)
    start, paths = values[..., :3], values[..., 3:].reshape(len(scenes), things, 2, 3, _BASES)
    two_phase = torch.tensor([row[1] for row in rows], dtype=torch.bool)
    two_phase = two_phase.reshape(len(scenes), things, 1, 1, 1)
    colors = torch.tensor([row[2] for row in rows]).reshape(len(scenes), things, 2, 3)

    time = torch.arange(num_frames, dtype=torch.float64) / max(num_frames - 1, 1)
    halves = torch.stack([(2 * time).clamp(max=1), (2 * time - 1).clamp(min=0)])
    whole = torch.stack([time, torch.zeros_like(time)])
    bases = torch.where(two_phase, _bases(halves), _bases(whole))  # [B, N, bases, phases, T]
    change = torch.zeros(*start.shape, num_frames, dtype=start.dtype)
    for phase in range(2):  # sums of products, not matmuls: the same bits in any batch
        for basis in range(_BASES):
            change += paths[:, :, phase, :, basis, None] * bases[:, :, basis, None, phase]
    return Tracks(
        x=(start[..., :1] + change[:, :, _X]).float(),
        y=(start[..., 1:2] + change[:, :, _Y]).float(),
        radius=(start[..., 2:] * change[:, :, _SIZE].exp()).float(),
        color=colors[:, :, (time >= 0.5).long()],
        present=torch.tensor([[i < len(s.things) for i in range(things)] for s in scenes]),
    )


def reach(shape: str, size: str, motion: Motion) -> tuple[float, float, float, float]:
    """How far a thing ever gets from its first centre, in canvas sides: left, right, up, down."""
    side, top, bottom = EXTENTS[shape]
    x = y = growth = 0.0
    left = right = up = down = 0.0
    for phase in motion.phases:
        low_x, high_x, low_y, high_y, *step = (phase.speed * part for part in _SWEEPS[phase.kind])
        radius = RADIUS[size] * math.exp(growth + max(0.0, step[_SIZE]))
        left = max(left, side * radius - x - low_x)
        right = max(right, side * radius + x + high_x)
        up = max(up, top * radius - y - low_y)
        down = max(down, bottom * radius + y + high_y)
        x, y, growth = x + step[_X], y + step[_Y], growth + step[_SIZE]
    return left, right, up, down


def _bases(u: torch.Tensor) -> torch.Tensor:
    turn = 2 * math.pi * u
    return torch.stack([u, 1 - turn.cos().abs(), turn.sin() / 2, (1 - turn.cos()) / 2])


def _padded(things: tuple[Thing, ...], count: int) -> list[Thing | None]:
    return [*things, *[None] * (count - len(things))]


def _row(thing: Thing | None) -> tuple[list[float], bool, list[list[int]]]:
    """Start values and path factors, whether the motion has two phases, first and last colour."""
    row = [0.0] * (3 + 2 * 3 * _BASES)
    if thing is None:
        return row, False, [[0, 0, 0], [0, 0, 0]]
    row[:3] = thing.x, thing.y, RADIUS[thing.size]
    for index, phase in enumerate(thing.motion.phases):
        for (what, basis), factor in _PATHS[phase.kind].items():
            row[3 + (index * 3 + what) * _BASES + basis] = factor * phase.speed
    first, last = COLORS[thing.color], COLORS[thing.motion.becomes or thing.color]
    return row, thing.motion.then is not None, [list(first), list(last)]

"""The renderer: scene graphs to frames, anti-aliased through signed distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from statefilm.data.world.motion import tracks
from statefilm.data.world.scene import (
    BACKGROUNDS,
    CROSS_HALF,
    SHAPES,
    SQUARE_HALF,
    TRIANGLE_INRADIUS,
    Scene,
)

MIN_SIZE, MAX_SIZE = 32, 256
# No shape reaches further from its centroid than a triangle's corner, per unit of radius.
_CIRCUMRADIUS = 2 * TRIANGLE_INRADIUS


def render(
    scenes: Sequence[Scene],
    *,
    size: int = 64,
    num_frames: int = 1,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Draws scenes on a square canvas.

    Args:
        size: side of the canvas in pixels, 32 to 256.
        num_frames: frames from the first moment of the clip to its last, both included.

    Returns:
        float32 [B, 3, T, size, size] in [-1, 1].
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size {size} is outside {MIN_SIZE} to {MAX_SIZE} pixels")
    if num_frames < 1:
        raise ValueError(f"num_frames {num_frames} is not a positive number of frames")
    batch = len(scenes)
    backgrounds = torch.tensor([BACKGROUNDS[s.background] for s in scenes], dtype=torch.float32)
    frames = torch.empty(batch, 3, num_frames, size, size, device=device)
    frames[:] = (backgrounds.to(device) / 127.5 - 1).reshape(batch, 3, 1, 1, 1)

    state = tracks(scenes, num_frames)
    x, y, radius = ((value * size).to(device) for value in (state.x, state.y, state.radius))
    color = (state.color.to(device) / 127.5 - 1).float()
    for layer in range(x.shape[1]):
        for shape in SHAPES:
            # Things of one layer lie in different frames, so that all are painted at once.
            chosen = [
                index
                for index, scene in enumerate(scenes)
                if layer < len(scene.things) and scene.things[layer].shape == shape
            ]
            if chosen:
                rows = torch.tensor(chosen, device=device)
                where = (rows, layer)
                _paint(frames, rows, shape, x[where], y[where], radius[where], color[where])
    return frames


def signed_distance(
    shape: str, dx: torch.Tensor, dy: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """Distance from the outline of a shape around the origin, negative inside.

    Exact but for the outside of corners, where edges count as prolonged. `dx` and `dy` (downwards)
    broadcast; all lengths are in one unit; `radius` is the equal-area circle's.
    """
    if shape == "circle":
        return (dx.square() + dy.square()).sqrt_() - radius
    if shape == "triangle":
        slanted = dx.abs() * (math.sqrt(3) / 2) - dy / 2
        return torch.maximum(slanted, dy) - TRIANGLE_INRADIUS * radius
    dx, dy = dx.abs(), dy.abs()
    if shape == "square":
        return torch.maximum(dx, dy) - SQUARE_HALF * radius
    arm, half = CROSS_HALF / 3 * radius, CROSS_HALF * radius
    return torch.minimum(torch.maximum(dx - half, dy - arm), torch.maximum(dx - arm, dy - half))


def coverage(shape: str, dx: torch.Tensor, dy: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """How much of each pixel a shape covers, 0 to 1; arguments of `signed_distance`, in pixels."""
    return signed_distance(shape, dx, dy, radius).neg_().add_(0.5).clamp_(0, 1)


def _paint(
    frames: torch.Tensor,
    rows: torch.Tensor,
    shape: str,
    x: torch.Tensor,
    y: torch.Tensor,
    radius: torch.Tensor,
    color: torch.Tensor,
) -> None:
    """Lays one shape over all frames of some rows; x, y, radius [R, T] in pixels, color [R, T, 3].

    Only a window around each shape is touched.
    """
    size = frames.shape[-1]
    window = min(size, 2 * math.ceil(float(radius.max()) * _CIRCUMRADIUS + 1) + 1)
    offsets = torch.arange(window, device=frames.device)
    left = (x - window / 2).round().long().clamp(0, size - window)
    top = (y - window / 2).round().long().clamp(0, size - window)
    columns, lines = left[..., None] + offsets, top[..., None] + offsets  # [R, T, window]

    dx = (columns + 0.5 - x[..., None])[:, :, None, :]
    dy = (lines + 0.5 - y[..., None])[:, :, :, None]
    alpha = coverage(shape, dx, dy, radius[..., None, None])

    time = torch.arange(frames.shape[2], device=frames.device)
    index = (
        rows[:, None, None, None],
        time[:, None, None],
        lines[..., :, None],
        columns[..., None, :],
    )
    for channel in range(3):
        plane = frames[:, channel]
        plane[index] = torch.lerp(plane[index], color[..., channel, None, None], alpha)

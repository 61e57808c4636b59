"""Dimensions of a clip's quality, shaped as VBench's (arXiv 2311.17982), read without a judge.

Each takes the evidence of one clip and gives 0 to 1. None looks at the prompt, and a frozen clip
does well in all but `dynamic_degree`, which therefore stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from statefilm.evaluation.world.evidence import Evidence
from statefilm.evaluation.world.motion import MIN_SPEED
from statefilm.evaluation.world.reader import Found
from statefilm.evaluation.world.regions import srgb_to_lab

_DIFFERENT = 25.0  # CIELAB distance of another colour
_JERK = 0.05  # canvas sides off the path between neighbours, at which smoothness falls to 1 / e
_MARGIN = 2  # pixels around a thing's box that its edge may colour
_REACH = 1.5  # radii around a centre that hold the thing
_SAMPLES = 24  # along a side of the window that follows a thing


def subject_consistency(clip: Evidence) -> float:
    """How far the thing keeps the colour and shape of the first frame and of the one before."""
    if clip.main is None:
        return 0.0
    places = clip.main.places
    total = 0.0
    for frame in range(1, len(clip.readings)):
        now = places.get(frame)
        total += (_alike(now, places.get(0)) + _alike(now, places.get(frame - 1))) / 2
    return total / (len(clip.readings) - 1)


def background_consistency(clip: Evidence) -> float:
    """How like itself the rest stays: 1 less its mean change in CIELAB in parts of 25.

    Each frame is compared with the first and with the one before, where neither shows a thing.
    """
    lab = srgb_to_lab((clip.frames.permute(1, 2, 3, 0) + 1) / 2)
    free = _free(clip)
    pairs = [pair for now in range(1, len(lab)) for pair in ((0, now), (now - 1, now))]
    changes = []
    for then, now in pairs:
        both = free[then] & free[now]
        change = (lab[then] - lab[now]).norm(dim=-1)[both]
        changes.append(float(change.mean()) if len(change) else _DIFFERENT)
    return 1 - min(1.0, sum(changes) / len(changes) / _DIFFERENT)


def temporal_flickering(clip: Evidence) -> float:
    """1 less the mean difference of successive frames, in parts of the range (VBench)."""
    return 1 - float(clip.frames.diff(dim=1).abs().mean()) / 2


def compensated_flickering(clip: Evidence) -> float:
    """`temporal_flickering` with the things held in place: windows that follow and grow with them.

    Where neither frame shows a thing, pixels are compared as they are.
    """
    free = _free(clip)
    both = free[1:] & free[:-1]
    change = clip.frames.diff(dim=1).abs().mean(0)
    total, weight = float(change[both].sum()), float(both.sum())
    pixels = clip.frames.shape[-1] * clip.frames.shape[-2]
    for thing in clip.followed:
        places = list(thing.places.items())
        windows = _windows(clip.frames, places)
        steps = [index for index, (a, b) in enumerate(pairwise(places)) if b[0] == a[0] + 1]
        for index in steps:
            area = (2 * _REACH) ** 2 / math.pi * places[index][1].area * pixels
            total += area * float((windows[index + 1] - windows[index]).abs().mean())
            weight += area
    return 1 - total / weight / 2 if weight else 0.0


def motion_smoothness(clip: Evidence) -> float:
    """How near the thing is to the middle of its places one frame before and one after.

    exp(-distance / 0.05 canvas sides), 0 where it is missing, on average.
    """
    if clip.main is None:
        return 0.0
    places = {frame: (thing.x, thing.y) for frame, thing in clip.main.places.items()}
    scores = []
    for frame in range(1, len(clip.readings) - 1):
        near = [places.get(frame + step) for step in (-1, 0, 1)]
        if any(place is None for place in near):
            scores.append(0.0)
            continue
        before, now, after = (torch.tensor(place) for place in near)
        scores.append(math.exp(-float((now - (before + after) / 2).norm()) / _JERK))
    return sum(scores) / len(scores)


def dynamic_degree(clip: Evidence) -> float:
    """1 where something moves or changes its size, else 0."""
    return float(max((thing.speed for thing in clip.followed), default=0.0) >= MIN_SPEED)


def imaging_quality(clip: Evidence) -> float:
    """How clean the frames are: explained pixels, times how well things fit their templates."""
    scores = [
        (1 - frame.unexplained) * sum(thing.overlap for thing in frame.objects) / len(frame.objects)
        for frame in clip.readings
        if frame.objects
    ]
    return sum(scores) / len(clip.readings)


QUALITY: dict[str, Callable[[Evidence], float]] = {
    "subject_consistency": subject_consistency,
    "background_consistency": background_consistency,
    "temporal_flickering": temporal_flickering,
    "compensated_flickering": compensated_flickering,
    "motion_smoothness": motion_smoothness,
    "dynamic_degree": dynamic_degree,
    "imaging_quality": imaging_quality,
}


def _alike(a: Found | None, b: Found | None) -> float:
    if a is None or b is None:
        return 0.0
    return ((a.color == b.color) + (a.shape == b.shape)) / 2


def _free(clip: Evidence) -> Tensor:
    """Where no thing is, by the boxes of the things: bool [T, H, W]."""
    _, frames, height, width = clip.frames.shape
    free = torch.ones(frames, height, width, dtype=torch.bool)
    for index, reading in enumerate(clip.readings):
        for thing in reading.objects:
            left, top, right, bottom = thing.box
            rows = _span(top, bottom, height)
            free[index, rows, _span(left, right, width)] = False
    return free


def _span(low: float, high: float, size: int) -> slice:
    return slice(max(0, round(low * size) - _MARGIN), round(high * size) + _MARGIN)


def _windows(frames: Tensor, places: list[tuple[int, Found]]) -> Tensor:
    """A window around each place of a thing, scaled with the thing: [N, 3, side, side]."""
    theta = torch.zeros(len(places), 2, 3)
    for row, (_, thing) in zip(theta, places, strict=True):
        radius = 2 * _REACH * math.sqrt(thing.area / math.pi)
        row[0, 0] = row[1, 1] = radius
        row[:, 2] = torch.tensor([2 * thing.x - 1, 2 * thing.y - 1])
    chosen = frames[:, [frame for frame, _ in places]].transpose(0, 1)
    where = F.affine_grid(theta, [len(places), 3, _SAMPLES, _SAMPLES], align_corners=False)
    return F.grid_sample(chosen, where, padding_mode="border", align_corners=False)

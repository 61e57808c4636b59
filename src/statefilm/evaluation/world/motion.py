"""The reader of clips: things followed from frame to frame, and how the moving one moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from statefilm.data.world.motion import tracks
from statefilm.data.world.scene import MOTIONS, Motion, Scene, Thing
from statefilm.evaluation.world.reader import Found, Reading, read_images

MIN_FRAMES = 5  # fewer cannot tell a bounce from rest
MIN_SPEED = 0.12  # canvas sides a clip; what changes less than a straight motion of it is still
MIN_FIT = 0.5  # part of the variance of a path that its class explains
MIN_PRESENCE = 0.5  # part of the frames that show a thing that counts
_MAX_STEP = 0.75  # canvas sides between frames, with the penalty below
_CHANGE = 0.25  # penalty for a change of colour or of shape between frames


@dataclass(slots=True)
class Track:
    """One thing over a clip: the frames that show it, and how it looks in each of them."""

    frames: list[int] = field(default_factory=list)
    things: list[Found] = field(default_factory=list)

    @property
    def color(self) -> str:
        """The colour of most frames."""
        return Counter(thing.color for thing in self.things).most_common(1)[0][0]

    @property
    def shape(self) -> str:
        """The shape in most frames."""
        return Counter(thing.shape for thing in self.things).most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class ClipReading:
    """What a clip shows.

    Attributes:
        motion: class of the thing that moves most, one of `MOTIONS`; None where there is no such
            thing or its path fits no class.
        color, shape: of that thing, in most frames.
        alone: whether each frame shows this one thing and no other.
    """

    motion: str | None = None
    color: str | None = None
    shape: str | None = None
    alone: bool = False


def check_clips(clips: torch.Tensor) -> None:
    """Raises ValueError for clips that are no [N, 3, T, H, W], or too short to read a motion."""
    if clips.ndim != 5 or clips.shape[2] < MIN_FRAMES:
        raise ValueError(
            f"clips have the shape {list(clips.shape)}: valid is [N, 3, T, H, W], T >= {MIN_FRAMES}"
        )


def read_clips(clips: torch.Tensor) -> list[ClipReading]:
    """Reads clips, floating point [N, 3, T, H, W] in [-1, 1], each with T >= 5 frames."""
    check_clips(clips)
    num_frames = clips.shape[2]
    readings = read_images(clips.transpose(1, 2).flatten(0, 1))
    return [
        read_motion(readings[start : start + num_frames])
        for start in range(0, len(readings), num_frames)
    ]


def read_motion(frames: Sequence[Reading]) -> ClipReading:
    """Reads a clip from the readings of its frames."""
    followed = [t for t in follow(frames) if len(t.frames) >= MIN_PRESENCE * len(frames)]
    if not followed:
        return ClipReading()
    classified = [(*classify(track, len(frames)), track) for track in followed]
    motion, _, track = max(classified, key=lambda item: item[1])
    alone = len(track.frames) == len(frames) and all(len(frame.objects) == 1 for frame in frames)
    return ClipReading(motion, track.color, track.shape, alone)


def follow(frames: Sequence[Reading]) -> list[Track]:
    """Joins things of successive frames, the nearest and most alike first."""
    found: list[Track] = []
    for index, frame in enumerate(frames):
        pairs = sorted(
            (step, old, new)
            for old, track in enumerate(found)
            for new, thing in enumerate(frame.objects)
            if (step := _step(track.things[-1], thing)) <= _MAX_STEP
        )
        joined: dict[int, int] = {}
        for _, old, new in pairs:
            if new not in joined and old not in joined.values():
                joined[new] = old
        for new, thing in enumerate(frame.objects):
            if new not in joined:
                joined[new] = len(found)
                found.append(Track())
            found[joined[new]].frames.append(index)
            found[joined[new]].things.append(thing)
    return found


def classify(track: Track, num_frames: int) -> tuple[str | None, float]:
    """The class of motion whose path explains most of a track, and how fast the track is.

    A class's path is the world's own for speed 1. Place and speed are fitted by least squares to
    x, y and the logarithm of the radius. A track is as fast as a straight motion of its variance.
    """
    state = torch.tensor([(t.x, t.y, t.area) for t in track.things], dtype=torch.float64)
    state[:, 2] = state[:, 2].log() / 2
    state -= state.mean(0)
    paths = _unit_paths(num_frames)[:, track.frames]
    paths = paths - paths.mean(1, keepdim=True)
    power = paths.square().sum((1, 2))
    change = state.square().sum()
    speed = float((change / power[MOTIONS.index("right")]).sqrt())
    if speed < MIN_SPEED:
        return "still", speed
    explained = (paths * state).sum((1, 2)).clamp(min=0).square() / power.clamp(min=1e-12)
    best = int(explained.argmax())
    return (MOTIONS[best] if explained[best] >= MIN_FIT * change else None), speed


@lru_cache(maxsize=32)
def _unit_paths(num_frames: int) -> torch.Tensor:
    """x, y and log radius over time of each of `MOTIONS` at speed 1: float64 [9, T, 3]."""
    scenes = [
        Scene((Thing("circle", "white", "small", 0.5, 0.5, Motion(kind, float(kind != "still"))),))
        for kind in MOTIONS
    ]
    state = tracks(scenes, num_frames)
    return torch.stack([state.x, state.y, state.radius.log()], dim=-1)[:, 0].double()


def _step(old: Found, new: Found) -> float:
    away = ((old.x - new.x) ** 2 + (old.y - new.y) ** 2) ** 0.5
    return away + _CHANGE * ((old.color != new.color) + (old.shape != new.shape))

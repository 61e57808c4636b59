"""What a clip gives to be judged by: its pixels, the reading of each frame, things followed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from statefilm.data.world.scene import Description
from statefilm.evaluation.world.motion import (
    MIN_PRESENCE,
    ClipReading,
    Track,
    check_clips,
    classify,
    follow,
    read_motion,
)
from statefilm.evaluation.world.reader import Found, Reading, read_images
from statefilm.evaluation.world.triples import Seen


@dataclass(frozen=True)
class Followed:
    """One thing followed over a clip.

    Attributes:
        places: frame to how it stands there.
        shape, color, size: in most frames.
        motion: its class over the whole clip; None where its path fits no class.
        speed: see `classify`.
        phases: its class of motion in the first half of the clip and in the second.
        colors: its colour in most frames of the first half and of the second.
    """

    places: dict[int, Found]
    shape: str
    color: str
    size: str
    motion: str | None
    speed: float
    phases: tuple[str | None, str | None]
    colors: tuple[str | None, str | None]


@dataclass(frozen=True)
class Evidence:
    """One clip, read.

    Attributes:
        frames: [3, T, H, W] in [-1, 1].
        readings: of each frame.
        followed: things in at least half of the frames, those in most frames first.
        motion: of the thing that moves most.
    """

    frames: Tensor
    readings: list[Reading]
    followed: list[Followed]
    motion: ClipReading

    @property
    def main(self) -> Followed | None:
        """The thing that is there longest."""
        return self.followed[0] if self.followed else None

    def things(self, asked: Description) -> list[Seen]:
        """The followed things, with those properties in time that a caption speaks of."""
        phases = max(len(group.motion) for group in asked.groups)
        turning = any(group.becomes for group in asked.groups)
        return [
            Seen(
                shape=thing.shape,
                color=(turning and thing.colors[0]) or thing.color,
                size=thing.size,
                motion=_named(thing, phases),
                becomes=thing.colors[1] if turning else None,
                places=thing.places,
            )
            for thing in self.followed
        ]


def read_evidence(clips: Tensor) -> list[Evidence]:
    """Reads clips, floating point [N, 3, T, H, W] in [-1, 1], each with T >= 5 frames."""
    check_clips(clips)
    count = clips.shape[2]
    readings = read_images(clips.transpose(1, 2).flatten(0, 1))
    found = []
    for index, clip in enumerate(clips):
        frames = readings[index * count : (index + 1) * count]
        tracks = [t for t in follow(frames) if len(t.frames) >= MIN_PRESENCE * count]
        tracks.sort(key=lambda track: -len(track.frames))
        things = [_followed(track, count) for track in tracks]
        found.append(Evidence(clip.float().clamp(-1, 1), frames, things, read_motion(frames)))
    return found


def _followed(track: Track, num_frames: int) -> Followed:
    middle = (num_frames - 1) / 2
    places = dict(zip(track.frames, track.things, strict=True))
    motion, speed = classify(track, num_frames)
    length = math.floor(middle) + 1  # of a half; an odd clip's middle frame is in both
    early = {frame: thing for frame, thing in places.items() if frame <= middle}
    late = {frame - math.ceil(middle): t for frame, t in places.items() if frame >= middle}
    # The frame in the middle has the second colour already.
    before = [thing.color for frame, thing in places.items() if frame < middle]
    after = [thing.color for frame, thing in places.items() if frame >= middle]
    return Followed(
        places=places,
        shape=track.shape,
        color=track.color,
        size=Counter(thing.size for thing in track.things).most_common(1)[0][0],
        motion=motion,
        speed=speed,
        phases=(_class(early, length), _class(late, length)),
        colors=(_most(before), _most(after)),
    )


def _class(places: dict[int, Found], num_frames: int) -> str | None:
    if len(places) < 2:
        return None
    return classify(Track(list(places), list(places.values())), num_frames)[0]


def _named(thing: Followed, phases: int) -> tuple[str, ...]:
    """The kinds of motion of a thing, as many as are asked for."""
    kinds = {0: (), 1: (thing.motion,), 2: thing.phases}[phases]
    return tuple(kind or "none" for kind in kinds)


def _most(values: Sequence[str]) -> str | None:
    return Counter(values).most_common(1)[0][0] if values else None

"""From frames back to digits: which, where and of which light, and whether they fly on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from statefilm.data.worlds.flight import flight_verdicts, share
from statefilm.data.worlds.glyphs.font import DIGITS, HALF_BOX, draw_digit
from statefilm.data.worlds.glyphs.scene import LIGHTS, reflect
from statefilm.data.worlds.world import unit_rgb

MIN_LIGHT = 0.1  # of a pixel, to count as ink
MIN_INK = 0.006  # part of the canvas; a channel with less holds nothing
MIN_OVERLAP = 0.6  # intersection over union with the best digit, to be one
MARGIN = 0.05  # canvas sides: how far from a border a digit may be and touch it within a frame
_WINDOW = 0.24  # half side of the square around a glyph that is compared, canvas sides

NAMES = ("count", "digits", "moving", "straight", "collisions")


@dataclass(frozen=True, slots=True)
class GlyphsReading:
    """What each of the three lights shows in each of T frames.

    Attributes:
        digits: int64 [T, 3], the digit; -1 where a channel is dark, -2 where its ink is no digit.
        centres: float64 [T, 3, 2], (x, y) in canvas sides; of no meaning without a digit.
        overlaps: float32 [T, 3], intersection over union with the best digit, 0 where dark.
    """

    digits: torch.Tensor
    centres: torch.Tensor
    overlaps: torch.Tensor

    @property
    def cast(self) -> tuple[int, ...]:
        """The lights, as indices into `LIGHTS`, that show a digit in at least half the frames."""
        often = (self.digits >= 0).float().mean(0) >= 0.5
        return tuple(often.nonzero().flatten().tolist())


def read_glyphs(frames: torch.Tensor) -> list[GlyphsReading]:
    """Reads clips of digits.

    A channel holds one digit or nothing: the digit that overlaps most with the channel's ink when
    both have the same centroid. The place of a digit is that of its centre, good to a tenth of a
    pixel.

    Args:
        frames: floating point [B, 3, T, H, W] in [-1, 1].

    Raises:
        UsageError: for another shape or type, or for values that are not finite.
    """
    return [_read(clip.permute(0, 3, 1, 2)) for clip in unit_rgb(frames)]


def judge_glyphs(reading: GlyphsReading) -> dict[str, float]:
    """The verdicts on a clip, shares from 0 to 1; all are 0 where most frames show no digit.

    Returns:
        "count": part of the frames in which exactly the lights of the cast show a digit.
        "digits": part of the digits of the cast that are what their light shows in most frames.
        "moving", "straight", "collisions": see `flight_verdicts`; digits touch the borders only,
        and every frame in which the whole cast is found counts as read.
    """
    cast = list(reading.cast)
    if not cast:
        return dict.fromkeys(NAMES, 0.0)
    expected = torch.zeros(len(LIGHTS), dtype=torch.bool)
    expected[cast] = True
    exact = torch.where(expected, reading.digits >= 0, reading.digits == -1).all(1)
    seen = (reading.digits[:, cast] >= 0).all(1)
    shown = [track[track >= 0] for track in reading.digits[:, cast].T]
    kept = sum(int((track == track.mode().values).sum()) for track in shown)
    centres = reading.centres[:, cast]
    low = torch.tensor(HALF_BOX, dtype=centres.dtype)
    near = ((centres < low + MARGIN) | (centres > 1 - low - MARGIN)).any(-1)
    return {
        "count": share(int(exact.sum()), len(exact)),
        "digits": share(kept, sum(map(len, shown))),
        **flight_verdicts(centres, seen, near, _predict),
    }


def _predict(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """The centres [2, n, 2] in the two next frames."""
    return torch.stack([reflect(now + ahead * (now - before)) for ahead in (1, 2)])


def _read(light: torch.Tensor) -> GlyphsReading:
    """Reads pictures [T, 3, H, W] in [0, 1]."""
    size = light.shape[-1]
    light = light.flatten(0, 1)  # [T * 3, H, W]
    ink = torch.where(light >= MIN_LIGHT, light, 0.0)
    total = ink.sum((1, 2))
    centroid = _centroid(ink, (torch.arange(size) + 0.5) / size)

    offsets = _offsets(size)
    window = _around(ink, centroid, offsets)
    templates, middles = _templates(offsets)
    shared = torch.stack([torch.minimum(window, t).sum((1, 2)) for t in templates], dim=1)
    overlap = shared / (total[:, None] + templates.sum((1, 2)) - shared)
    best = overlap.max(1)

    # Once more from all light near the strokes: what is too dim to be ink leans to one side.
    near = F.max_pool2d((templates > 0).float(), 3, stride=1, padding=1)[best.indices]
    centroid = centroid + _centroid(_around(light, centroid, offsets) * near, offsets)

    dark = total < MIN_INK * size**2
    digits = torch.where(best.values >= MIN_OVERLAP, best.indices, -2)
    digits = torch.where(dark, -1, digits)
    centres = (centroid - middles[best.indices]).double()
    return GlyphsReading(
        digits.view(-1, len(LIGHTS)),
        centres.view(-1, len(LIGHTS), 2),
        torch.where(dark, 0.0, best.values).view(-1, len(LIGHTS)),
    )


def _centroid(ink: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The centroids (x, y) of pictures [N, P, P]: [N, 2] in the unit of `pixels` [P]."""
    mass = ink.sum((1, 2)).clamp(min=1e-6)
    return torch.stack([ink.sum(1) @ pixels / mass, ink.sum(2) @ pixels / mass], dim=-1)


def _offsets(size: int) -> torch.Tensor:
    """Middles of the pixels of a window around its own centre, in canvas sides."""
    half = round(_WINDOW * size)
    return torch.arange(-half, half + 1) / size


def _around(ink: torch.Tensor, centroid: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """The windows of pictures [N, H, W] around places [N, 2]: [N, P, P]."""
    x = (centroid[:, :1] + offsets)[:, None, :].expand(-1, len(offsets), -1)
    y = (centroid[:, 1:] + offsets)[:, :, None].expand(-1, -1, len(offsets))
    grid = torch.stack([x, y], dim=-1) * 2 - 1
    return F.grid_sample(ink[:, None], grid, align_corners=False)[:, 0]


def _templates(offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each digit with its centroid in the middle of a window, [10, P, P], and those centroids."""
    zero = torch.zeros(1)
    pictures = torch.cat([draw_digit(d, zero, zero, offsets, offsets) for d in range(DIGITS)])
    middles = _centroid(pictures, offsets)
    shifted = [
        draw_digit(digit, -x[None], -y[None], offsets, offsets)
        for digit, (x, y) in enumerate(middles)
    ]
    return torch.cat(shifted), middles

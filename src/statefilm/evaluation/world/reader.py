"""The reader: from pixels back to the things that a picture of the world shows.

Nearest palette colour in CIELAB → connected components → holes filled, specks dropped → shape by
best overlap with templates of the same area, drawn by the world's own renderer → centroid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from statefilm.data.world.render import coverage
from statefilm.data.world.scene import BACKGROUNDS, COLORS, RADIUS, SHAPES
from statefilm.evaluation.world.regions import connected_components, grow, srgb_to_lab

MIN_OVERLAP = 0.55  # of the best template, for a region to be a thing
MIN_AREA = 0.25 * torch.pi * RADIUS["small"] ** 2  # of a thing; less is a speck
MAX_AREA = 4.0 * torch.pi * RADIUS["large"] ** 2
MIN_CORE = 0.25  # part of a region in 2x2 blocks of its colour; mixed colours on edges have less
MAX_DIFFERENCE = 20.0  # CIELAB distance of explained pixels; palette colours are 25 apart or more
MIDDLE_RADIUS = (RADIUS["small"] * RADIUS["large"]) ** 0.5
_VOTE_SCALE = 10.0  # CIELAB distance at which a pixel's vote for a colour has fallen to a quarter
_RIM = 2  # pixels around a region's majority pixels that its anti-aliased edge may reach
_PIXELS_AT_ONCE = 1 << 19
_NAMES = (*COLORS, *BACKGROUNDS)


@dataclass(frozen=True, slots=True)
class Found:
    """One thing as read. Lengths are in canvas sides, `y` downwards.

    Attributes:
        x, y: centroid.
        area: part of the canvas; `size` is the word for it.
        box: left, top, right, bottom.
        overlap: intersection over union with the best template, 0 to 1.
    """

    shape: str
    color: str
    size: str
    x: float
    y: float
    area: float
    box: tuple[float, float, float, float]
    overlap: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What one picture shows.

    Attributes:
        objects: the things found, best overlap first.
        background: name of the most frequent background colour.
        unexplained: part of the pixels, 0 to 1, that neither the things nor the background account
            for: those whose surroundings (3x3) differ by more than `MAX_DIFFERENCE` in CIELAB.
    """

    objects: tuple[Found, ...]
    background: str
    unexplained: float


def read_images(images: torch.Tensor, *, zoom: float = 1.0) -> list[Reading]:
    """Reads a batch of pictures.

    Args:
        images: floating point [N, 3, H, W] in [-1, 1] (values outside are clipped), sRGB.
        zoom: how many times as long the canvas is as that for which things were drawn, which may
            have kept their size in pixels: so much shorter than usual they may be.

    Returns:
        N readings.

    Raises:
        ValueError: for another shape or type, or for values that are not finite.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        kind = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"images are {kind}: valid are floating point numbers [N, 3, H, W]")
    if not images.isfinite().all():
        raise ValueError("images hold values that are not finite")
    if not len(images):
        return []
    rgb = (images.float().clamp(-1, 1) + 1) / 2
    chunk = max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
    least = MIN_AREA / zoom**2
    parts = (part.permute(0, 2, 3, 1) for part in rgb.split(chunk))
    return [reading for part in parts for reading in _read(part, least)]


def read_png(path: str | Path) -> Reading:
    """Reads one picture from a lossless file."""
    with Image.open(path) as file:
        if file.format != "PNG":
            raise ValueError(f"{path} is {file.format}: only PNG keeps the colours as they are")
        pixels = torch.from_numpy(np.array(file.convert("RGB")))
    return read_images(pixels.permute(2, 0, 1)[None] / 127.5 - 1)[0]


def _read(rgb: torch.Tensor, least: float) -> list[Reading]:
    """Reads pictures [N, H, W, 3] in [0, 1] at once; things have at least the area `least`."""
    labels = _palette_labels(rgb)
    is_background = labels >= len(COLORS)
    counts = F.one_hot((labels - len(COLORS)).clamp(min=0), len(BACKGROUNDS))
    counts = (counts * is_background[..., None]).sum((1, 2))
    background = counts.argmax(1)  # [N]

    solid, color = _solid_regions(torch.where(is_background, -1, labels), least)
    whole = _fill_holes(solid)
    owner = grow(whole, torch.ones_like(whole, dtype=torch.bool), _RIM)
    alpha = _coverage(rgb, labels, background, solid, whole, owner)
    image, masks = _masks(owner, alpha, len(color))
    things = _things(image, masks, color, least)
    accepted = torch.zeros(len(color) + 1, dtype=torch.bool, device=rgb.device)
    for region, _ in things:
        accepted[region + 1] = True
    unexplained = _unexplained(rgb, alpha * accepted[owner], color, owner, background)

    found: list[list[Found]] = [[] for _ in range(len(rgb))]
    for region, thing in things:
        found[int(image[region])].append(thing)
    names = list(BACKGROUNDS)
    return [
        Reading(tuple(sorted(objects, key=lambda thing: -thing.overlap)), names[b], share)
        for objects, b, share in zip(found, background.tolist(), unexplained.tolist(), strict=True)
    ]


def _palette(device: torch.device) -> torch.Tensor:
    """sRGB of `_NAMES` in [0, 1], [P, 3]."""
    return torch.tensor([*COLORS.values(), *BACKGROUNDS.values()], device=device) / 255


def _palette_labels(rgb: torch.Tensor) -> torch.Tensor:
    """Index into `_NAMES` for each pixel, [N, H, W].

    Each pixel votes for the colours near its own in its 3x3 surroundings, so that noise and the
    mixed colours of anti-aliased edges, far from every palette colour, are outvoted.
    """
    lab, palette = srgb_to_lab(rgb), srgb_to_lab(_palette(rgb.device))
    distance = torch.cdist(lab.flatten(0, 2), palette, compute_mode="donot_use_mm_for_euclid_dist")
    votes = (1 + (distance / _VOTE_SCALE).square()).pow(-2).view(*rgb.shape[:3], len(palette))
    votes = F.pad(votes, (0, 0, 1, 1, 1, 1))
    votes = votes[:, :-2] + 2 * votes[:, 1:-1] + votes[:, 2:]
    votes = votes[:, :, :-2] + 2 * votes[:, :, 1:-1] + votes[:, :, 2:]
    return votes.argmax(-1)


def _solid_regions(labels: torch.Tensor, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Regions of one colour (labels >= 0) that are neither specks nor thin seams.

    Returns:
        ids [N, H, W], 1 to M in the order of the images, 0 elsewhere; colour indices [M].
    """
    roots = connected_components(labels)
    total = labels.numel()
    area = roots.flatten().bincount(minlength=total)
    block = roots[:, :-1, :-1]
    block = block[
        (block == roots[:, 1:, :-1]) & (block == roots[:, :-1, 1:]) & (block == roots[:, 1:, 1:])
    ]
    core = block.bincount(minlength=total)
    pixels = labels.shape[1] * labels.shape[2]
    solid = (labels.flatten() >= 0) & (area >= least * pixels) & (core >= MIN_CORE * area)
    # `area` is zero but at roots, so that each region counts once.
    solid &= area > 0
    ids = solid.cumsum(0) * solid
    return ids[roots], labels.flatten()[solid]


def _fill_holes(regions: torch.Tensor) -> torch.Tensor:
    """Gives what no path of free pixels joins to the border to the regions around it."""
    free = connected_components((regions == 0).long())
    border = torch.cat([free[:, 0], free[:, -1], free[:, :, 0], free[:, :, -1]], 1)
    outside = torch.zeros(regions.numel(), dtype=torch.bool, device=regions.device)
    outside[border.flatten()] = True
    return grow(regions, into=~outside[free])


def _coverage(
    rgb: torch.Tensor,
    labels: torch.Tensor,
    background: torch.Tensor,
    solid: torch.Tensor,
    whole: torch.Tensor,
    owner: torch.Tensor,
) -> torch.Tensor:
    """How much of each pixel its owner covers, [N, H, W]: 1 inside, unmixed at the edge.

    A mixed pixel lies on the line between the mean colours of the background and of the region.
    """
    count = int(solid.max()) + 1
    ink = rgb.new_zeros(count, 3).index_add_(0, solid.flatten(), rgb.flatten(0, 2))
    ink /= solid.flatten().bincount(minlength=count).clamp(min=1)[:, None]
    is_paper = (labels == background[:, None, None] + len(COLORS))[..., None]
    paper = (rgb * is_paper).sum((1, 2)) / is_paper.sum((1, 2)).clamp(min=1)
    line = ink[owner] - paper[:, None, None]
    alpha = ((rgb - paper[:, None, None]) * line).sum(-1) / line.square().sum(-1).clamp(min=1e-6)
    edge = F.pad(whole[:, None].float(), (1, 1, 1, 1), value=-1)
    highest = F.max_pool2d(edge, 3, stride=1)[:, 0]
    lowest = -F.max_pool2d(-edge, 3, stride=1)[:, 0]
    inside = (whole > 0) & (highest == lowest)
    return torch.where(inside, 1.0, alpha.clamp(0, 1)) * (owner > 0)


def _masks(
    owner: torch.Tensor, alpha: torch.Tensor, regions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image of each region [M] and its coverage there [M, H, W]."""
    first = torch.full((regions + 1,), owner.numel(), device=owner.device)
    index = torch.arange(owner.numel(), device=owner.device)
    first.scatter_reduce_(0, owner.flatten(), index, "amin")
    image = first[1:] // (owner.shape[1] * owner.shape[2])
    ids = torch.arange(1, regions + 1, device=owner.device)
    return image, alpha[image] * (owner[image] == ids[:, None, None])


def _things(
    image: torch.Tensor, masks: torch.Tensor, color: torch.Tensor, least: float
) -> list[tuple[int, Found]]:
    """The regions that look like a shape, each with its index."""
    height, width = masks.shape[1:]
    rows = torch.arange(height, device=masks.device) + 0.5
    columns = torch.arange(width, device=masks.device) + 0.5
    area = masks.sum((1, 2))
    x = (masks.sum(1) @ columns) / area
    y = (masks.sum(2) @ rows) / area
    radius = (area / torch.pi).sqrt()[:, None, None]
    dx, dy = columns - x[:, None, None], rows[:, None] - y[:, None, None]
    templates = [coverage(shape, dx, dy, radius) for shape in SHAPES]
    # Both have the same area a: with an intersection i the union is 2 a - i.
    shared = torch.stack([torch.minimum(masks, t).sum((1, 2)) for t in templates], dim=1)
    overlap, shape = (shared / (2 * area[:, None] - shared)).max(1)

    part = area / (height * width)
    within = (part >= least) & (part <= MAX_AREA) & (overlap >= MIN_OVERLAP)
    filled = masks >= 0.5
    spans = [_span(filled.any(1), width), _span(filled.any(2), height)]
    things = []
    for region in within.nonzero().flatten().tolist():
        (left, right), (top, bottom) = (span[region].tolist() for span in spans)
        size = "small" if float(part[region] / torch.pi) ** 0.5 < MIDDLE_RADIUS else "large"
        thing = Found(
            shape=SHAPES[int(shape[region])],
            color=_NAMES[int(color[region])],
            size=size,
            x=float(x[region]) / width,
            y=float(y[region]) / height,
            area=float(part[region]),
            box=(left, top, right, bottom),
            overlap=float(overlap[region]),
        )
        things.append((region, thing))
    return things


def _span(occupied: torch.Tensor, length: int) -> torch.Tensor:
    """First and last edge, [M, 2] in canvas sides, of what is occupied [M, length]."""
    occupied = occupied.int()
    first = occupied.argmax(1)
    last = length - occupied.flip(1).argmax(1)
    return torch.stack([first, last], dim=1) / length


def _unexplained(
    rgb: torch.Tensor,
    alpha: torch.Tensor,
    color: torch.Tensor,
    owner: torch.Tensor,
    background: torch.Tensor,
) -> torch.Tensor:
    """Part of each picture [N] that differs from the things and background as painted."""
    palette = _palette(rgb.device)
    ink = torch.cat([palette[:1], palette[color]])[owner]
    paper = palette[background + len(COLORS)][:, None, None]
    painted = torch.lerp(paper, ink, alpha[..., None])
    seen, told = (
        srgb_to_lab(F.avg_pool2d(planes, 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1))
        for planes in (rgb.permute(0, 3, 1, 2), painted.permute(0, 3, 1, 2))
    )
    return ((seen - told).norm(dim=-1) > MAX_DIFFERENCE).float().mean((1, 2))

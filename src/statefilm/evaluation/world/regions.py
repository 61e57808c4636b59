"""Image primitives of the reader: CIELAB, connected components, growth of regions."""

import torch
import torch.nn.functional as F

_D65 = (0.95047, 1.0, 1.08883)  # the white point of sRGB
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.072175),
    (0.0193339, 0.119192, 0.9503041),
)


def srgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """sRGB in [0, 1], [..., 3], to CIELAB under D65, in which distances are differences seen."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4, rgb / 12.92)
    xyz = linear @ (rgb.new_tensor(_XYZ) / rgb.new_tensor(_D65)[:, None]).T
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz * (841 / 108) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def connected_components(labels: torch.Tensor) -> torch.Tensor:
    """Joins 4-neighbours of equal label.

    Args:
        labels: integers [N, H, W].

    Returns:
        int64 [N, H, W]: for each pixel its region's first pixel, as an index into the flat batch.
    """
    index = torch.arange(labels.numel(), device=labels.device).view(labels.shape)
    starts = torch.ones_like(labels, dtype=torch.bool)
    starts[:, :, 1:] = labels[:, :, 1:] != labels[:, :, :-1]
    # Runs along rows are joined at once; what remains is to hook runs of neighbouring rows.
    roots = torch.where(starts, index, 0).flatten().cummax(0).values.view(labels.shape)
    touching = labels[:, 1:] == labels[:, :-1]
    above, below = roots[:, :-1][touching], roots[:, 1:][touching]
    parent = index.flatten().clone()
    while above.numel():
        parent.scatter_reduce_(0, torch.maximum(above, below), torch.minimum(above, below), "amin")
        while not torch.equal(shorter := parent[parent], parent):
            parent = shorter
        above, below = parent[above], parent[below]
        apart = above != below
        above, below = above[apart], below[apart]
    return parent[roots]


def grow(regions: torch.Tensor, into: torch.Tensor, steps: int | None = None) -> torch.Tensor:
    """Lets regions (ids > 0 in [N, H, W]) spread over free pixels (id 0) of the mask `into`.

    A step reaches the 8 neighbours, the larger id winning; without `steps` until nothing changes.
    """
    while steps is None or steps > 0:
        spread = F.max_pool2d(regions[:, None].float(), 3, stride=1, padding=1)[:, 0].long()
        grown = torch.where((regions == 0) & into, spread, regions)
        if torch.equal(grown, regions):
            break
        regions, steps = grown, None if steps is None else steps - 1
    return regions

"""Connected regions of equal label in batches of pictures."""

from __future__ import annotations

import torch


def connected_regions(labels: torch.Tensor) -> torch.Tensor:
    """Numbers the regions of 4-neighbours that have one label.

    Args:
        labels: integers [N, H, W]; below 0 is what belongs to no region.

    Returns:
        int64 [N, H, W]: numbers from 0 in the order of their first pixels, -1 outside.
    """
    inside = labels >= 0
    index = torch.full_like(labels, -1)
    index[inside] = torch.arange(int(inside.sum()))
    down = (labels[:, 1:] == labels[:, :-1]) & inside[:, 1:]
    right = (labels[:, :, 1:] == labels[:, :, :-1]) & inside[:, :, 1:]
    first = torch.cat([index[:, :-1][down], index[:, :, :-1][right]])
    second = torch.cat([index[:, 1:][down], index[:, :, 1:][right]])
    root = index[inside]
    own = root.clone()
    while first.numel():
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        root = root.scatter_reduce(0, high, low, "amin")
        while not torch.equal(shorter := root[root], root):
            root = shorter
        first, second = root[first], root[second]
        apart = first != second
        first, second = first[apart], second[apart]
    index[inside] = ((root == own).cumsum(0) - 1)[root]
    return index

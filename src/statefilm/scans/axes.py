"""Axis orders: scans that are transposes of the token grid, so neither way needs an index table."""

from __future__ import annotations

from torch import Tensor

AXIS_ORDERS = ("thw", "twh", "htw", "hwt", "wth", "wht")
"""The six orders of time, height and width; the last letter runs fastest."""

ALIASES = {
    "H": "thw",
    "V": "twh",
    "HT": "thw",
    "VT": "twh",
    "TH": "hwt",
    "TV": "wht",
}
"""The paper's names: H, V (and HT, VT) finish a frame first; TH, TV let time run fastest."""


def flatten_grid(grid: Tensor, order: str) -> Tensor:
    """Lay a grid [B, T, H, W, D] out as a sequence [B, T*H*W, D] with ``order[-1]`` fastest."""
    return grid.permute(0, *(1 + "thw".index(axis) for axis in order), 4).flatten(1, 3)


def unflatten_grid(sequence: Tensor, order: str, sizes: tuple[int, int, int]) -> Tensor:
    """Fold a sequence [B, T*H*W, D] in ``order`` back to the grid [B, T, H, W, D].

    ``sizes`` is (T, H, W). The result is a view; it is contiguous only for ``thw``.
    """
    folded = sequence.unflatten(1, tuple(sizes["thw".index(axis)] for axis in order))
    return folded.permute(0, *(1 + order.index(axis) for axis in "thw"), 4)

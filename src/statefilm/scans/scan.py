"""The scan itself: one named order of the sites of a [T, H, W] grid, applied and inverted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from statefilm.errors import suggest
from statefilm.scans.axes import ALIASES, AXIS_ORDERS, flatten_grid, unflatten_grid
from statefilm.scans.curves import CURVES, walk

SCANS = (*AXIS_ORDERS, *ALIASES, *CURVES)
"""Every name that ``get_scan`` knows; besides these, ``random:SEED`` for any seed >= 0."""


@dataclass(frozen=True)
class Scan:
    """An order of the T*H*W sites of a token grid, with its exact inverse.

    Axis orders are transposes. Curves walk each frame along the curve, frame by frame, by an
    index table. Batch, width, dtype and device of the tokens are free; ``device`` is only where
    ``positions`` lies.
    """

    name: str
    num_frames: int
    height: int
    width: int
    device: torch.device

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        return self.num_frames, self.height, self.width

    @property
    def is_axis_order(self) -> bool:
        """Whether the scan is a transpose of the grid, without an index table."""
        return self.name in AXIS_ORDERS

    @property
    def positions(self) -> Tensor:
        """(t, h, w) of each step of the walk: int64 [T*H*W, 3] on the scan's device, cached."""
        return _positions(self)

    def apply(self, grid: Tensor) -> Tensor:
        """Grid [B, T, H, W, D] -> sequence [B, T*H*W, D] in the order of the scan."""
        if grid.ndim != 5 or tuple(grid.shape[1:4]) != self.sizes:
            expected = ", ".join(map(str, self.sizes))
            raise ValueError(
                f"scan {self.name}: grid has shape {tuple(grid.shape)}, expected [B, {expected}, D]"
            )
        if self.is_axis_order:
            return flatten_grid(grid, self.name)
        site_of_step = _tables(self, grid.device)[0]
        return grid.flatten(2, 3).index_select(2, site_of_step).flatten(1, 2)

    def invert(self, sequence: Tensor) -> Tensor:
        """Sequence [B, T*H*W, D] in the order of the scan -> grid [B, T, H, W, D]."""
        length = self.num_frames * self.height * self.width
        if sequence.ndim != 3 or sequence.shape[1] != length:
            raise ValueError(
                f"scan {self.name}: sequence has shape {tuple(sequence.shape)}, "
                f"expected [B, {length}, D]"
            )
        if self.is_axis_order:
            return unflatten_grid(sequence, self.name, self.sizes)
        step_of_site = _tables(self, sequence.device)[1]
        frames = sequence.unflatten(1, (self.num_frames, self.height * self.width))
        return frames.index_select(2, step_of_site).unflatten(2, (self.height, self.width))


def get_scan(name: str, T: int, H: int, W: int, device: torch.device | str | None = None) -> Scan:
    """The scan ``name`` over a grid of T frames of H x W sites.

    ``device`` is where ``positions`` is wanted (the CPU when not given). Raises ValueError for
    an unknown name, with the nearest known one, and for a size below 1.
    """
    if min(T, H, W) < 1:
        raise ValueError(f"scan {name}: grid {T} x {H} x {W} is empty; each size must be >= 1")
    return Scan(resolve(name), T, H, W, torch.device(device or "cpu"))


def resolve(name: str) -> str:
    """Canonical name of a scan: ``TH`` -> ``hwt``, ``random`` -> ``random:0``.

    Raises ValueError for an unknown name, naming the nearest known one and all of them.
    """
    if name in ALIASES:
        return ALIASES[name]
    if name == "random":
        return "random:0"
    if name in AXIS_ORDERS or name in CURVES:
        return name
    seed = name.removeprefix("random:")
    if seed != name and seed.isascii() and seed.isdigit():
        return f"random:{int(seed)}"
    raise suggest(name, [*SCANS, "random:SEED"], "scan")


_CACHE: dict[tuple[str, ...], Tensor] = {}
_CACHE_LIMIT = 256


def _cached(kind: str, scan: Scan, device: torch.device, build: Callable[[], Tensor]) -> Tensor:
    """``build()`` on ``device``, made once for each kind, scan and device."""
    # As text the sizes are plain numbers to torch.compile too: a table is of one size.
    key = (kind, f"{scan.name} {scan.num_frames}x{scan.height}x{scan.width}", str(device))
    found = _CACHE.get(key)
    if found is None:
        if torch.compiler.is_compiling():
            return build().to(device)
        # A tensor made in inference mode could not be saved for a later backward.
        with torch.inference_mode(False):
            found = build().to(device)
        if type(found) is Tensor:  # not the fake one of an export or of a dry run
            if len(_CACHE) >= _CACHE_LIMIT:
                _CACHE.clear()
            _CACHE[key] = found
    return found


@torch.compiler.assume_constant_result
def _walk(curve: str, size: str) -> tuple[int, ...]:
    height, width = map(int, size.split("x"))
    return tuple(walk(curve, height, width))


def _tables(scan: Scan, device: torch.device) -> Tensor:
    """Site of each step and step of each site within a frame: int64 [2, H*W]."""

    def build() -> Tensor:
        table = torch.tensor(_walk(scan.name, f"{scan.height}x{scan.width}"), device="cpu")
        return torch.stack([table, table.argsort()])

    return _cached("tables", scan, device, build)


def _positions(scan: Scan) -> Tensor:
    def build() -> Tensor:
        axes = [torch.arange(size, device="cpu") for size in scan.sizes]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        return scan.apply(grid[None])[0]

    if scan.is_axis_order and torch.compiler.is_compiling():
        return build().to(scan.device)  # arithmetic on the sizes, which may stay symbolic
    return _cached("positions", scan, scan.device, build)

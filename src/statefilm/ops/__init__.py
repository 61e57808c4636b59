"""Numerical kernels: state-space sequence ops, each with a reference and a fast form."""

from statefilm.ops.quasiseparable import quasiseparable
from statefilm.ops.s4d import s4d
from statefilm.ops.selective_scan import selective_scan
from statefilm.ops.ssd import ssd

__all__ = ["quasiseparable", "s4d", "selective_scan", "ssd"]
